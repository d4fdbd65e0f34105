package io.driftline.examples;

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Map;
import java.util.Random;
import java.util.UUID;
import java.util.zip.GZIPInputStream;
import org.apache.kafka.common.KafkaException;

/** Publishes events from JSON lines, or a demo's: see README.md. */
public final class Main {
    private static final String USAGE = """
            usage: producer --brokers HOST:PORT --topic NAME FILE      JSON lines, perhaps .gz; - is stdin
                   producer --brokers HOST:PORT --demo N [--predictions-topic NAME] [--labels-topic NAME]""";
    private static final ObjectMapper JSON = JsonMapper.builder().enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).build();

    private String brokers;
    private String topic;
    private String file;
    private int demo = -1;
    private String predictionsTopic = "driftline.predictions";
    private String labelsTopic = "driftline.labels";

    public static void main(String[] arguments) {
        Main main = new Main();
        try {
            main.parse(arguments);
        } catch (IllegalArgumentException | ArrayIndexOutOfBoundsException wrong) {
            System.err.println(USAGE);
            System.exit(2);
        }
        System.exit(main.run());
    }

    private void parse(String[] arguments) {
        for (int at = 0; at < arguments.length; at++) {
            switch (arguments[at]) {
                case "--brokers" -> brokers = arguments[++at];
                case "--topic" -> topic = arguments[++at];
                case "--demo" -> demo = Integer.parseUnsignedInt(arguments[++at]);
                case "--predictions-topic" -> predictionsTopic = arguments[++at];
                case "--labels-topic" -> labelsTopic = arguments[++at];
                default -> {
                    if (file != null || arguments[at].startsWith("--")) {
                        throw new IllegalArgumentException(arguments[at]);
                    }
                    file = arguments[at];
                }
            }
        }
        if (brokers == null || (demo >= 0) == (topic != null && file != null)) {
            throw new IllegalArgumentException("either --topic NAME FILE or --demo N");
        }
    }

    private int run() {
        DriftlineProducer producer = new DriftlineProducer(brokers, predictionsTopic, labelsTopic);
        long bad = 0;
        try (producer) {
            if (demo >= 0) {
                producer.await(predictionsTopic);
                producer.await(labelsTopic);
                publishDemo(producer);
            } else {
                producer.await(topic);
                bad = publishLines(producer);
            }
        } catch (IOException | KafkaException failure) {
            System.err.println("error: " + failure);
            bad++;
        }
        System.out.println("acknowledged " + producer.acknowledged());
        if (producer.failed() > 0) {
            System.err.printf("error: %d not acknowledged: %s%n", producer.failed(), producer.firstFailure());
        }
        return bad + producer.failed() > 0 ? 1 : 0;
    }

    /** Publishes each line as it stands. Returns how many could not be. */
    private long publishLines(DriftlineProducer producer) throws IOException {
        long bad = 0;
        try (InputStream lines = open()) {
            long number = 0;
            for (byte[] line = readLine(lines); line != null; line = readLine(lines)) {
                number++;
                try {
                    producer.publish(topic, predictionIdOf(line), line);
                } catch (IllegalArgumentException wrong) {
                    System.err.printf("line %d: %s%n", number, wrong.getMessage());
                    bad++;
                }
            }
        }
        return bad;
    }

    private InputStream open() throws IOException {
        InputStream stream = file.equals("-") ? System.in : Files.newInputStream(Path.of(file));
        return new BufferedInputStream(file.endsWith(".gz") ? new GZIPInputStream(stream) : stream);
    }

    /** Bytes, not text: a decoder would quietly replace what is not UTF-8. Null at the end. */
    private static byte[] readLine(InputStream lines) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        int next = lines.read();
        if (next < 0) {
            return null;
        }
        for (; next >= 0 && next != '\n'; next = lines.read()) {
            line.write(next);
        }
        return line.toByteArray();
    }

    private static String predictionIdOf(byte[] line) {
        JsonNode event;
        try {
            event = JSON.readTree(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(line)).toString());
        } catch (IOException notJson) {
            event = null;
        }
        if (event == null || !event.isObject()) {
            throw new IllegalArgumentException("not a JSON object");
        }
        if (!event.path("prediction_id").isTextual()) {
            throw new IllegalArgumentException("no prediction_id");
        }
        return event.path("prediction_id").textValue();
    }

    /** A card-fraud model whose scores are honest: a payment scored 0.8 is fraud in 8 of 10 cases. */
    private void publishDemo(DriftlineProducer producer) {
        Random random = new Random();
        for (int serial = 0; serial < demo; serial++) {
            double amount = Math.round(100 * Math.exp(4 + random.nextGaussian())) / 100.0;
            boolean isNew = random.nextDouble() < 0.2;
            String country = new String[] {"NL", "DE", "FR"}[random.nextInt(3)];
            double score = 1 / (1 + Math.exp(3 - amount / 60 - (isNew ? 1.5 : 0)));
            String predictionId = UUID.randomUUID().toString();
            Instant now = Instant.now().truncatedTo(ChronoUnit.MILLIS);
            producer.publishPrediction(new DriftlineProducer.Prediction(
                    predictionId, "card-fraud", "3", now, score >= 0.5 ? "fraud" : "ok", score,
                    Map.of("amount", amount, "country", country, "is_new", isNew),
                    Map.of("region", random.nextBoolean() ? "eu" : "us", "channel", random.nextBoolean() ? "web" : "app")));
            // In life the truth comes from elsewhere, days later.
            producer.publishLabel(predictionId, "card-fraud", random.nextDouble() < score ? "fraud" : "ok", Instant.now(), now);
        }
    }
}
