"""Makes one window of many rows as a Parquet file: 20 numeric and 3 text features, a score, a prediction and a label.

    scripts/python.sh scripts/large_window.py OUT.parquet --rows 10000000 --seed 2

Another seed makes a reference for it; the first five numeric features have moved by 2 % in all files but that of seed 1.
"""

import argparse

import numpy
import pyarrow
import pyarrow.parquet

ROWS_AT_ONCE = 500_000
NUMBERS = 20
TEXTS = (5, 40, 1_000)


def numbers(random: numpy.random.Generator, feature: int, rows: int) -> numpy.ndarray:
    """One of four kinds of distributions: a bell, a long tail, an even one, and one of hundredths."""
    kinds = (
        lambda: random.normal(100 + feature, 15, rows),
        lambda: random.lognormal(1, 1, rows),
        lambda: random.uniform(0, 1, rows),
        lambda: numpy.round(random.gamma(2, 50, rows), 2),
    )
    return kinds[feature % len(kinds)]()


def table(random: numpy.random.Generator, rows: int, moved: float) -> pyarrow.Table:
    columns = {}
    for feature in range(NUMBERS):
        values = numbers(random, feature, rows)
        columns[f"feature_f{feature:02}"] = values * moved if feature < 5 else values
    for feature, categories in enumerate(TEXTS):
        columns[f"feature_t{feature}_text"] = pyarrow.array(random.integers(0, categories, rows).astype(str))
    labels = random.uniform(0, 1, rows) < 0.1
    scores = 1 / (1 + numpy.exp(-(random.normal(-2, 1.2, rows) + 1.6 * labels)))
    columns["score"] = scores
    columns["prediction"] = (scores >= 0.5).astype(numpy.int64)
    columns["label"] = labels.astype(numpy.int64)
    return pyarrow.table(columns)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out")
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--seed", type=int, default=2)
    given = arguments.parse_args()
    random = numpy.random.default_rng(given.seed)
    writer = None
    for start in range(0, given.rows, ROWS_AT_ONCE):
        part = table(random, min(ROWS_AT_ONCE, given.rows - start), 1.0 if given.seed == 1 else 1.02)
        writer = writer or pyarrow.parquet.ParquetWriter(given.out, part.schema, compression="zstd")
        writer.write_table(part)
    if writer:
        writer.close()


if __name__ == "__main__":
    main()
