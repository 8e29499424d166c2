"""What surrounds TRL's trainers: encoding, precision, interruption, checkpoints, metrics, publishing."""
