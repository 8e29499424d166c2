"""The same ingestion with the stock tools, each in a process of its own: `python rivals_ingest.py TOOL IN OUT`.

The same work to the same splits, as far as the tools go: parse, submitted answers only, unique plurality, blank and
equal texts out, duplicates and contradictions out, splits by a hash of the prompt, shuffled order, three JSONL
files. No report, no record ids and metadata, no agreement, no hashes, no atomic publishing: those are ours alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

SPLITS = ("test", "eval", "train")


def main() -> None:
    tool, source, target = sys.argv[1:4]
    Path(target).mkdir(parents=True, exist_ok=True)
    TOOLS[tool](source, target)


def winner(values, statuses):
    """Return response_a, response_b or None: the unique plurality of the submitted answers."""
    votes = Counter(v for v, s in zip(values or (), statuses or (), strict=True) if s == "submitted").most_common()
    if not votes or (len(votes) > 1 and votes[0][1] == votes[1][1]) or votes[0][0] == "tie":
        return None
    return votes[0][0]


def bucket(prompt: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.strip().encode(), digest_size=4).digest(), "big") % 100


def split_of(number: int) -> str:
    return "test" if number < 5 else "eval" if number < 10 else "train"


def with_datasets(source: str, target: str) -> None:
    """One batched pass that judges, drops and renames: the fastest way we found."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    rows = load_dataset("json", data_files=source, split="train", cache_dir=f"{target}/cache")
    save_dataset(rows.map(judged, batched=True, num_proc=2, remove_columns=rows.column_names), target)


def with_datasets_rows(source: str, target: str) -> None:
    """A map and a filter row by row, as its documentation begins."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    rows = load_dataset("json", data_files=source, split="train", cache_dir=f"{target}/cache")

    def pair(row):
        found = judged({name: [value] for name, value in row.items()})
        return {name: values[0] if values else None for name, values in found.items()} | {"fine": bool(found["key"])}

    rows = rows.map(pair, num_proc=2).filter(lambda row: row["fine"], num_proc=2)
    save_dataset(rows, target)


def save_dataset(rows, target: str) -> None:
    """Drop duplicates and contradictions, shuffle, split and write."""
    sides: dict[bytes, set[str]] = {}
    for key, chosen in zip(rows["key"], rows["chosen"], strict=True):
        sides.setdefault(key, set()).add(chosen.strip())
    seen: set[bytes] = set()

    def fresh(key):
        if len(sides[key]) > 1 or key in seen:
            return False
        seen.add(key)
        return True

    rows = rows.select([i for i, key in enumerate(rows["key"]) if fresh(key)]).shuffle(seed=42)
    names = [split_of(number) for number in rows["bucket"]]
    for name in SPLITS:
        part = rows.select([i for i, split in enumerate(names) if split == name])
        part.select_columns(["prompt", "chosen", "rejected"]).to_json(f"{target}/{name}.jsonl", num_proc=2)


def judged(batch):
    """Return the pairs of a batch of records as columns."""
    pairs = {"prompt": [], "chosen": [], "rejected": [], "key": [], "bucket": []}
    columns = ("prompt", "response_a", "response_b", "preference.responses", "preference.responses.status")
    for prompt, a, b, values, statuses in zip(*(batch[name] for name in columns), strict=True):
        won = winner(values, statuses)
        asked, one, other = prompt.strip(), a.strip(), b.strip()
        if won and asked and one and other and one != other:
            key = "\0".join((asked, *sorted((one, other)))).encode()
            values = (prompt, *((b, a) if won == "response_b" else (a, b)), hashlib.md5(key).digest(), bucket(prompt))
            for name, value in zip(pairs, values, strict=True):
                pairs[name].append(value)
    return pairs


def with_pandas(source: str, target: str) -> None:
    import pandas as pd

    rows = pd.read_json(source, lines=True)
    pairs = zip(rows["preference.responses"], rows["preference.responses.status"], strict=True)
    rows["won"] = [winner(v, s) for v, s in pairs]
    for name in ("prompt", "response_a", "response_b"):
        rows[f"{name}_"] = rows[name].str.strip()
    fine = rows["won"].notna() & (rows.prompt_ != "") & (rows.response_a_ != "") & (rows.response_b_ != "")
    rows = rows[fine & (rows.response_a_ != rows.response_b_)].copy()
    second = rows["won"] == "response_b"
    rows["chosen"] = rows.response_a.where(~second, rows.response_b)
    rows["rejected"] = rows.response_b.where(~second, rows.response_a)
    low = rows.response_a_.where(rows.response_a_ < rows.response_b_, rows.response_b_)
    high = rows.response_b_.where(rows.response_a_ < rows.response_b_, rows.response_a_)
    rows["key"] = rows.prompt_ + "\0" + low + "\0" + high
    rows["low_won"] = (rows.response_a_ < rows.response_b_) != second
    rows = rows[rows.groupby("key")["low_won"].transform("nunique") == 1]
    rows = rows.drop_duplicates("key").sample(frac=1, random_state=42)
    splits = rows.prompt_.map(lambda p: split_of(bucket(p)))
    for name in SPLITS:
        part = rows.loc[splits == name, ["prompt", "chosen", "rejected"]]
        part.to_json(f"{target}/{name}.jsonl", orient="records", lines=True, force_ascii=False)


def with_polars(source: str, target: str) -> None:
    import polars as pl

    answers, status = pl.col("preference.responses"), pl.col("preference.responses.status")
    rows = pl.read_ndjson(source).select(
        "prompt", "response_a", "response_b", "preference.responses", "preference.responses.status"
    )
    rows = rows.with_row_index("i")
    votes = (
        rows.select("i", answers.alias("v"), status.alias("s")).explode(["v", "s"]).filter(pl.col("s") == "submitted")
        .group_by("i").agg(**{k: (pl.col("v") == v).sum() for k, v in
                              (("a", "response_a"), ("b", "response_b"), ("t", "tie"))})
    )  # fmt: skip
    a, b, t = pl.col("a"), pl.col("b"), pl.col("t")
    p_, a_, b_ = (pl.col(n).str.strip_chars() for n in ("prompt", "response_a", "response_b"))
    rows = rows.join(votes, on="i").filter(((a > b) & (a > t)) | ((b > a) & (b > t)))
    rows = rows.filter((p_ != "") & (a_ != "") & (b_ != "") & (a_ != b_))
    rows = rows.with_columns(
        pl.when(a > b).then("response_a").otherwise("response_b").alias("chosen"),
        pl.when(a > b).then("response_b").otherwise("response_a").alias("rejected"),
        pl.concat_str(
            [p_, pl.when(a_ < b_).then(a_).otherwise(b_), pl.when(a_ < b_).then(b_).otherwise(a_)], separator="\0"
        )
        .hash(42)
        .alias("key"),
        (p_.hash(42) % 100).alias("bucket"),
    )
    rows = rows.filter(pl.col("chosen").str.strip_chars().n_unique().over("key") == 1)
    rows = rows.unique("key", keep="first", maintain_order=True).sort("key")
    rows = rows.with_columns(pl.when(pl.col("bucket") < 5).then(pl.lit("test")).when(pl.col("bucket") < 10)
                             .then(pl.lit("eval")).otherwise(pl.lit("train")).alias("split"))  # fmt: skip
    for name in SPLITS:
        rows.filter(pl.col("split") == name).select("prompt", "chosen", "rejected").write_ndjson(
            f"{target}/{name}.jsonl"
        )


DUCKDB = """
CREATE TABLE pairs AS
WITH parsed AS (
  SELECT prompt, response_a, response_b, "preference.responses" AS v, "preference.responses.status" AS s
  FROM read_json('{source}', format='newline_delimited')),
voted AS (
  SELECT *, list_filter(v, lambda x, i: s[i] = 'submitted') AS votes FROM parsed),
counted AS (
  SELECT *, len(list_filter(votes, lambda x: x = 'response_a')) AS a,
    len(list_filter(votes, lambda x: x = 'response_b')) AS b,
    len(list_filter(votes, lambda x: x = 'tie')) AS t,
    trim(prompt) AS p_, trim(response_a) AS a_, trim(response_b) AS b_
  FROM voted),
won AS (
  SELECT prompt, p_, CASE WHEN a > b THEN response_a ELSE response_b END AS chosen,
    CASE WHEN a > b THEN response_b ELSE response_a END AS rejected,
    md5(p_ || chr(0) || least(a_, b_) || chr(0) || greatest(a_, b_)) AS key, a > b AS first, a_ < b_ AS low
  FROM counted
  WHERE ((a > b AND a > t) OR (b > a AND b > t)) AND p_ <> '' AND a_ <> '' AND b_ <> '' AND a_ <> b_),
once AS (
  SELECT any_value(prompt) AS prompt, any_value(p_) AS p_, any_value(chosen) AS chosen,
    any_value(rejected) AS rejected, key
  FROM won GROUP BY key HAVING count(DISTINCT first = low) = 1)
SELECT prompt, chosen, rejected, key, hash(p_) % 100 AS bucket FROM once;
"""


def with_duckdb(source: str, target: str) -> None:
    import duckdb

    db = duckdb.connect()
    db.execute(DUCKDB.format(source=source))
    for name, where in (("test", "bucket < 5"), ("eval", "bucket BETWEEN 5 AND 9"), ("train", "bucket >= 10")):
        pairs = f"SELECT prompt, chosen, rejected FROM pairs WHERE {where} ORDER BY key"
        db.execute(f"COPY ({pairs}) TO '{target}/{name}.jsonl' (FORMAT json)")


TOOLS = {
    "datasets": with_datasets,
    "datasets-rows": with_datasets_rows,
    "pandas": with_pandas,
    "polars": with_polars,
    "duckdb": with_duckdb,
}

if __name__ == "__main__":
    main()
    print(json.dumps({"done": sys.argv[1]}))
