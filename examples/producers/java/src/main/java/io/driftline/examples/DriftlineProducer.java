package io.driftline.examples;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Publishes predictions and labels to Driftline. Copy this class into your serving code; it needs kafka-clients and Jackson. One for
 * the whole process: it is thread-safe, and batches what all threads publish.
 */
public final class DriftlineProducer implements AutoCloseable {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final KafkaProducer<String, byte[]> producer;
    private final String predictionsTopic;
    private final String labelsTopic;
    private final AtomicLong acknowledged = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private final AtomicReference<Exception> firstFailure = new AtomicReference<>();

    public DriftlineProducer(String brokers, String predictionsTopic, String labelsTopic) {
        this.predictionsTopic = predictionsTopic;
        this.labelsTopic = labelsTopic;
        this.producer = new KafkaProducer<>(Map.of(
                ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, brokers,
                // All in-sync replicas have an event before it counts as delivered: the death of one broker loses nothing.
                ProducerConfig.ACKS_CONFIG, "all",
                // A retry after a lost answer does not write an event twice, nor in another order.
                ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, true,
                // After so long an event has failed, and says so, instead of waiting for ever.
                ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, 30_000,
                ProducerConfig.REQUEST_TIMEOUT_MS_CONFIG, 10_000,
                // So long `send` waits for the topic's metadata, or for room in the buffer (32 MB).
                ProducerConfig.MAX_BLOCK_MS_CONFIG, 30_000,
                // A few milliseconds of waiting make batches out of single events.
                ProducerConfig.LINGER_MS_CONFIG, 10,
                ProducerConfig.COMPRESSION_TYPE_CONFIG, "lz4"),
                // The partitioner stays the client's own: murmur2 of the key.
                new StringSerializer(), new ByteArraySerializer());
    }

    /** What a model has answered. `predictionId` is what its label will name, days later perhaps. */
    public record Prediction(
            String predictionId, String modelName, String modelVersion, Instant timestamp, Object prediction, Double score,
            Map<String, ?> features, Map<String, String> tags) {}

    public void publishPrediction(Prediction of) {
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("prediction_id", of.predictionId());
        event.put("model_name", of.modelName());
        event.put("model_version", of.modelVersion());
        // An Instant prints as RFC 3339 in UTC, with its Z; a time without an offset would be refused.
        event.put("timestamp", of.timestamp().toString());
        event.put("prediction", of.prediction());
        event.put("score", of.score());
        event.put("features", of.features());
        event.put("tags", of.tags());
        event.values().removeIf(value -> value == null);
        publish(predictionsTopic, of.predictionId(), encode(event));
    }

    /** The truth about a prediction; a null `label` withdraws it. A known `predictionTimestamp` saves Driftline a look-up. */
    public void publishLabel(String predictionId, String modelName, Object label, Instant timestamp, Instant predictionTimestamp) {
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("prediction_id", predictionId);
        event.put("model_name", modelName);
        event.put("timestamp", timestamp.toString());
        event.put("label", label);
        if (predictionTimestamp != null) {
            event.put("prediction_timestamp", predictionTimestamp.toString());
        }
        publish(labelsTopic, predictionId, encode(event));
    }

    /** Fails where no broker knows the topic: once and early, while `publish` would wait for it with every event. */
    public void await(String topic) {
        producer.partitionsFor(topic);
    }

    /** Hands an event over. The key is the prediction's id: all events of one prediction keep their order. */
    public void publish(String topic, String predictionId, byte[] value) {
        try {
            producer.send(new ProducerRecord<>(topic, predictionId, value), this::delivered);
        } catch (KafkaException refused) { // `send` itself throws when the client has failed for good
            delivered(null, refused);
        }
    }

    public long acknowledged() {
        return acknowledged.get();
    }

    public long failed() {
        return failed.get();
    }

    public Exception firstFailure() {
        return firstFailure.get();
    }

    /** Call it at shutdown (a shutdown hook): without it the events of the last moments are lost. */
    @Override
    public void close() {
        // Waits for what is under way; what has no answer by then has failed, and its callback says so.
        producer.close(Duration.ofSeconds(60));
    }

    private void delivered(RecordMetadata metadata, Exception failure) {
        if (failure == null) {
            acknowledged.incrementAndGet();
        } else {
            failed.incrementAndGet();
            firstFailure.compareAndSet(null, failure);
        }
    }

    private static byte[] encode(Map<String, Object> event) {
        try {
            return JSON.writeValueAsBytes(event);
        } catch (JsonProcessingException impossible) {
            throw new IllegalArgumentException("an event of strings, numbers and maps is JSON", impossible);
        }
    }
}
