import com.lmax.disruptor.BusySpinWaitStrategy;
import com.lmax.disruptor.RingBuffer;
import com.lmax.disruptor.Sequence;
import com.lmax.disruptor.SequenceBarrier;
import com.lmax.disruptor.Sequencer;

import java.util.Arrays;

/**
 * The loops of sidecar/ring/benches over the LMAX Disruptor: one producer, one consumer, 1024 slots of one long, both
 * sides spin. Prints hop p50, hop p99 (half round trips, ns), throughput single and batch 64 (million/s), on one line.
 * The first two rounds of each are for the compiler and are not measured.
 */
public final class Rings {
    static final int SLOTS = 1024;
    static final int TRIPS = 100_000;
    static final int WARM_UP = 10_000;
    static final int BATCH = 64;
    static final int ITEMS = BATCH * 60_000;

    static final class Slot {
        long item;
    }

    /** One direction: a ring, and where its consumer is. */
    static final class Way {
        final RingBuffer<Slot> ring = RingBuffer.createSingleProducer(Slot::new, SLOTS, new BusySpinWaitStrategy());
        final SequenceBarrier barrier = ring.newBarrier();
        final Sequence taken = new Sequence(Sequencer.INITIAL_CURSOR_VALUE);
        long next = 0;

        Way() {
            ring.addGatingSequences(taken);
        }

        void send(long item) {
            long at = ring.next();
            ring.get(at).item = item;
            ring.publish(at);
        }

        long receive() throws Exception {
            barrier.waitFor(next);
            long item = ring.get(next).item;
            taken.set(next++);
            return item;
        }
    }

    public static void main(String[] arguments) throws Exception {
        double[] hop = null;
        double single = 0;
        double batch = 0;
        for (int round = 0; round < 3; round++) {
            hop = hop();
            single = throughput(1);
            batch = throughput(BATCH);
        }
        System.out.printf("%.1f %.1f %.2f %.2f%n", hop[0], hop[1], single, batch);
    }

    static double[] hop() throws Exception {
        Way there = new Way();
        Way back = new Way();
        Thread answering = start(() -> {
            for (int trip = 0; trip < WARM_UP + TRIPS; trip++) {
                back.send(there.receive());
            }
        });
        long[] times = new long[TRIPS];
        for (int trip = 0; trip < WARM_UP + TRIPS; trip++) {
            long begin = System.nanoTime();
            there.send(trip);
            if (back.receive() != trip) {
                throw new AssertionError("lost or repeated an item");
            }
            if (trip >= WARM_UP) {
                times[trip - WARM_UP] = System.nanoTime() - begin;
            }
        }
        answering.join();
        Arrays.sort(times);
        return new double[] {times[TRIPS / 2] / 2.0, times[TRIPS * 99 / 100] / 2.0};
    }

    static double throughput(int batch) throws Exception {
        Way way = new Way();
        long[] sum = new long[1];
        Thread receiving = start(() -> {
            while (way.next < ITEMS) {
                long there = way.barrier.waitFor(way.next);
                for (; way.next <= there; way.next++) {
                    sum[0] += way.ring.get(way.next).item;
                }
                way.taken.set(there);
            }
        });
        long begin = System.nanoTime();
        for (long item = 0; item < ITEMS; item += batch) {
            long last = way.ring.next(batch);
            for (int i = 0; i < batch; i++) {
                way.ring.get(last - batch + 1 + i).item = item + i;
            }
            way.ring.publish(last - batch + 1, last);
        }
        receiving.join();
        long spent = System.nanoTime() - begin;
        if (sum[0] != (long) ITEMS * (ITEMS - 1) / 2) {
            throw new AssertionError("lost or repeated an item");
        }
        return ITEMS * 1e3 / spent;
    }

    interface Loop {
        void run() throws Exception;
    }

    static Thread start(Loop loop) {
        Thread thread = new Thread(() -> {
            try {
                loop.run();
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        });
        thread.start();
        return thread;
    }
}
