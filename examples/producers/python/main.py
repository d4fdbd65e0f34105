"""Publishes events from JSON lines, or a demo's: see README.md."""

import argparse
import gzip
import json
import math
import random
import sys
import uuid
from datetime import datetime, timezone

from driftline_producer import DriftlineProducer


def parse_arguments():
    parser = argparse.ArgumentParser(description="Publishes Driftline's events.")
    parser.add_argument("--brokers", required=True, metavar="HOST:PORT")
    parser.add_argument("--topic", help="where the lines of FILE go")
    parser.add_argument("file", nargs="?", metavar="FILE", help="JSON lines, perhaps .gz; - is stdin")
    parser.add_argument("--demo", type=int, metavar="N", help="publish N made-up predictions and their labels instead")
    parser.add_argument("--predictions-topic", default="driftline.predictions")
    parser.add_argument("--labels-topic", default="driftline.labels")
    arguments = parser.parse_args()
    if (arguments.demo is None) != (arguments.topic is not None and arguments.file is not None):
        parser.error("give either --topic NAME FILE or --demo N")
    return arguments


def prediction_id_of(line):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    try:
        event = json.loads(line.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise ValueError("not a JSON object")
    if not isinstance(event.get("prediction_id"), str):
        raise ValueError("no prediction_id")
    return event["prediction_id"]


def open_lines(path):
    if path == "-":
        return sys.stdin.buffer
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")


def publish_lines(producer, topic, path):
    """Publishes each line as it stands. Returns how many could not be."""
    bad = 0
    with open_lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.rstrip(b"\r\n")
            try:
                producer.publish(topic, prediction_id_of(line), line)
            except ValueError as error:
                print(f"line {number}: {error}", file=sys.stderr)
                bad += 1
    return bad


def publish_demo(producer, count):
    """A card-fraud model whose scores are honest: a payment scored 0.8 is fraud in 8 of 10 cases."""
    for _ in range(count):
        amount = round(random.lognormvariate(4, 1), 2)
        features = {"amount": amount, "country": random.choice(["NL", "DE", "FR"]), "is_new": random.random() < 0.2}
        logit = -3 + amount / 60 + (1.5 if features["is_new"] else 0)
        score = 1 / (1 + math.exp(-logit))
        prediction_id, now = str(uuid.uuid4()), datetime.now(timezone.utc)
        producer.publish_prediction(
            prediction_id, "card-fraud", model_version="3", timestamp=now, prediction="fraud" if score >= 0.5 else "ok", score=score,
            features=features, tags={"region": random.choice(["eu", "us"]), "channel": random.choice(["web", "app"])},
        )
        # In life the truth comes from elsewhere, days later.
        producer.publish_label(prediction_id, "card-fraud", "fraud" if random.random() < score else "ok", prediction_timestamp=now)


def main():
    arguments = parse_arguments()
    producer = DriftlineProducer(arguments.brokers, arguments.predictions_topic, arguments.labels_topic)
    bad = 0
    try:
        if arguments.demo is not None:
            publish_demo(producer, arguments.demo)
        else:
            bad = publish_lines(producer, arguments.topic, arguments.file)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        bad += 1
    finally:
        producer.close()
    print(f"acknowledged {producer.acknowledged}")
    if producer.failed:
        print(f"error: {producer.failed} not acknowledged: {producer.first_failure}", file=sys.stderr)
    return 1 if bad or producer.failed else 0


if __name__ == "__main__":
    sys.exit(main())
