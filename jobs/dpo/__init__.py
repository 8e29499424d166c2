"""The step `dpo`: a policy that prefers what people prefer."""
