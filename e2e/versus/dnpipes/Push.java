// Pushes to a topic of its own with Kafka's own producer, `window` records on their way, and prints what was acknowledged.
//
// usage: Push BOOTSTRAP FLUSH RECORD_BYTES BATCH_BYTES WINDOW WARM_UP_SECONDS SECONDS
// FLUSH: `each` for a flush before each acknowledgement (flush.messages=1, as log.flush.interval.messages=1 of a broker)
// BATCH_BYTES: 0 for a record a batch

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Push {
    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], topic = "bench-" + System.nanoTime();
        int recordBytes = Integer.parseInt(args[2]), batchBytes = Integer.parseInt(args[3]), window = Integer.parseInt(args[4]);
        long warmUp = (long) (Double.parseDouble(args[5]) * 1e9), length = (long) (Double.parseDouble(args[6]) * 1e9);
        Properties own = new Properties();
        own.put("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(own)) {
            Map<String, String> configs = args[1].equals("each") ? Map.of("flush.messages", "1") : Map.of();
            admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1).configs(configs))).all().get();
            try {
                run(own, topic, recordBytes, batchBytes, window, warmUp, length);
            } finally {
                admin.deleteTopics(List.of(topic)).all().get();
            }
        }
    }

    static void run(Properties own, String topic, int recordBytes, int batchBytes, int window, long warmUp, long length)
            throws Exception {
        own.put("acks", "all");
        own.put("batch.size", batchBytes);
        own.put("linger.ms", batchBytes == 0 || window == 1 ? 0 : 5);
        own.put("max.request.size", 4 << 20);
        if (batchBytes == 0) {
            // With numbers for its records it has five requests on their way at most.
            own.put("enable.idempotence", false);
            own.put("max.in.flight.requests.per.connection", window);
        }
        byte[] value = new byte[recordBytes];
        new Random(1).nextBytes(value);
        long[] times = new long[1 << 24];
        AtomicLong done = new AtomicLong();
        Semaphore room = new Semaphore(window);
        Exception[] failed = new Exception[1];
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(own, new ByteArraySerializer(), new ByteArraySerializer())) {
            long from = System.nanoTime() + warmUp, until = from + length;
            long[] last = {from};
            while (System.nanoTime() < until && failed[0] == null) {
                room.acquire();
                long sent = System.nanoTime();
                producer.send(new ProducerRecord<>(topic, value), (stored, error) -> {
                    long now = System.nanoTime();
                    if (error != null) {
                        failed[0] = error;
                    } else if (now >= from) {
                        times[(int) (done.getAndIncrement() % times.length)] = now - sent;
                        last[0] = now;
                    }
                    room.release();
                });
            }
            producer.flush();
            if (failed[0] != null) {
                throw failed[0];
            }
            double batch = producer.metrics().entrySet().stream()
                    .filter(own1 -> own1.getKey().name().equals("records-per-request-avg") && own1.getKey().group().equals("producer-metrics"))
                    .mapToDouble(own1 -> (double) own1.getValue().metricValue()).findFirst().orElse(Double.NaN);
            int count = (int) Math.min(done.get(), times.length);
            long[] sorted = Arrays.copyOf(times, count);
            Arrays.sort(sorted);
            System.out.printf("{\"rate\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"batch\": %.1f}%n", done.get() * 1e9 / (last[0] - from),
                    sorted[count / 2] / 1e3, sorted[(int) (count * 0.99)] / 1e3, batch);
        }
    }
}
