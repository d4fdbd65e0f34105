"""Publishes predictions and labels to Driftline. Copy this file into your serving code; it needs confluent-kafka alone."""

import json
from datetime import datetime, timezone

from confluent_kafka import KafkaException, Producer


class DriftlineProducer:
    """One for the whole process: it is thread-safe, and batches what all threads publish."""

    def __init__(self, brokers, predictions_topic="driftline.predictions", labels_topic="driftline.labels"):
        self.predictions_topic = predictions_topic
        self.labels_topic = labels_topic
        self.acknowledged = 0
        self.failed = 0
        self.first_failure = None
        self._producer = Producer(
            {
                "bootstrap.servers": brokers,
                # All in-sync replicas have an event before it counts as delivered: the death of one broker loses nothing.
                "acks": "all",
                # A retry after a lost answer does not write an event twice, nor in another order.
                "enable.idempotence": True,
                # After so long an event has failed, and says so, instead of waiting for ever.
                "delivery.timeout.ms": 30_000,
                # A broker that is away is tried once a second, not ten times: each try is a line in the log.
                "reconnect.backoff.ms": 1_000,
                # A few milliseconds of waiting make batches out of single events.
                "linger.ms": 10,
                "compression.type": "lz4",
                # The partitioner stays librdkafka's own, `consistent_random`: CRC-32 of the key.
            }
        )

    def publish_prediction(
        self, prediction_id, model_name, *, prediction=None, score=None, model_version=None, features=None, tags=None,
        timestamp=None, **more,
    ):
        """Publishes what a model has answered. `prediction_id` is what its label will name, days later perhaps."""
        event = {
            "prediction_id": prediction_id,
            "model_name": model_name,
            "model_version": model_version,
            "timestamp": rfc3339(timestamp),
            "prediction": prediction,
            "score": score,
            "features": features,
            "tags": tags,
            **more,
        }
        event = {name: value for name, value in event.items() if value is not None}
        self.publish(self.predictions_topic, prediction_id, encode(event))

    def publish_label(self, prediction_id, model_name, label, *, timestamp=None, prediction_timestamp=None):
        """Publishes the truth about a prediction; `None` withdraws it."""
        event = {"prediction_id": prediction_id, "model_name": model_name, "timestamp": rfc3339(timestamp), "label": label}
        # Known? Then Driftline need not look for the prediction's window.
        if prediction_timestamp is not None:
            event["prediction_timestamp"] = rfc3339(prediction_timestamp)
        self.publish(self.labels_topic, prediction_id, encode(event))

    def publish(self, topic, prediction_id, value):
        """Hands an event over and returns at once; waits only while the buffer (100,000 events) is full.

        The key is the prediction's id: all events of one prediction keep their order.
        """
        while True:
            try:
                self._producer.produce(topic, key=prediction_id, value=value, on_delivery=self._delivered)
                break
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:  # too large, say: this event has failed, the next may not
                self._delivered(error.args[0], None)
                break
        # Callbacks come from here and from `close`; a service that publishes seldom calls poll from a timer.
        self._producer.poll(0)

    def close(self, timeout_secs=60):
        """Call it at shutdown (atexit, SIGTERM): without it the events of the last moments are lost."""
        left = self._producer.flush(timeout_secs)
        if left:
            self.failed += left
            self.first_failure = self.first_failure or f"{left} without an answer after {timeout_secs} s"

    def _delivered(self, error, _message):
        if error is None:
            self.acknowledged += 1
        else:
            self.failed += 1
            self.first_failure = self.first_failure or str(error)


def encode(event):
    # JSON has no NaN: better an error here than an event that is refused later.
    return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def rfc3339(time=None):
    """With an offset always; a time without one would be read in whatever zone the reader is in."""
    time = time or datetime.now(timezone.utc)
    if time.tzinfo is None:
        raise ValueError("a timestamp needs a time zone")
    return time.isoformat(timespec="milliseconds")
