package paystream.rivals.flink;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.connector.sink2.StatefulSinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.connector.base.sink.AsyncSinkBase;
import org.apache.flink.connector.base.sink.writer.AsyncSinkWriter;
import org.apache.flink.connector.base.sink.writer.AsyncSinkWriterStateSerializer;
import org.apache.flink.connector.base.sink.writer.BufferedRequestState;
import org.apache.flink.connector.base.sink.writer.DequeRequestBuffer;
import org.apache.flink.connector.base.sink.writer.ResultHandler;
import org.apache.flink.connector.base.sink.writer.SimpleBatchCreator;
import org.apache.flink.connector.base.sink.writer.config.AsyncSinkWriterConfiguration;
import org.apache.flink.connector.base.sink.writer.strategy.CongestionControlRateLimitingStrategy;
import org.apache.flink.connector.base.sink.writer.strategy.NoOpScalingStrategy;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import paystream.rivals.contract.ClickHouse;

/** Inserts encoded rows, at least once: a checkpoint completes after all rows before it are stored. */
final class ClickHouseSink extends AsyncSinkBase<byte[], byte[]> {
  private static final Logger LOG = LoggerFactory.getLogger(ClickHouseSink.class);

  private static final int IN_FLIGHT = 2;
  private static final int BATCH_ROWS = 20_000;
  private static final int BUFFERED_ROWS = 2 * BATCH_ROWS;
  private static final long BATCH_BYTES = 32 << 20;
  private static final long BUFFERED_MS = 50;
  private static final long TIMEOUT_MS = 120_000;
  private static final long SHORTEST_PAUSE_MS = 50;
  private static final long LONGEST_PAUSE_MS = 1000;

  private final String insert;

  /** Insert with one of the statements of {@link paystream.rivals.contract.Rows}. */
  ClickHouseSink(String insert) {
    super((row, context) -> row, BATCH_ROWS, IN_FLIGHT, BUFFERED_ROWS, BATCH_BYTES, BUFFERED_MS, BATCH_BYTES);
    this.insert = insert;
  }

  @Override
  public StatefulSinkWriter<byte[], BufferedRequestState<byte[]>> createWriter(WriterInitContext context) {
    return restoreWriter(context, List.of());
  }

  @Override
  public StatefulSinkWriter<byte[], BufferedRequestState<byte[]>> restoreWriter(
      WriterInitContext context, Collection<BufferedRequestState<byte[]>> states) {
    return new Writer(context, states);
  }

  @Override
  public SimpleVersionedSerializer<BufferedRequestState<byte[]>> getWriterStateSerializer() {
    return new RowSerializer();
  }

  private final class Writer extends AsyncSinkWriter<byte[], byte[]> {
    private final ClickHouse clickhouse = ClickHouse.fromEnvironment();
    private final ExecutorService requests =
        Executors.newFixedThreadPool(IN_FLIGHT, run -> new Thread(run, "clickhouse-sink"));
    private volatile long pauseMs = SHORTEST_PAUSE_MS;

    Writer(WriterInitContext context, Collection<BufferedRequestState<byte[]>> states) {
      super(
          getElementConverter(),
          context,
          AsyncSinkWriterConfiguration.builder()
              .setMaxBatchSize(getMaxBatchSize())
              .setMaxBatchSizeInBytes(getMaxBatchSizeInBytes())
              .setMaxInFlightRequests(getMaxInFlightRequests())
              .setMaxBufferedRequests(getMaxBufferedRequests())
              .setMaxTimeInBufferMS(getMaxTimeInBufferMS())
              .setMaxRecordSizeInBytes(getMaxRecordSizeInBytes())
              .setRequestTimeoutMS(TIMEOUT_MS)
              // A failed insert means that ClickHouse is away, not that it wants less at once. The default would come
              // back from an outage with batches of one row, and grow by ten rows a request.
              .setRateLimitingStrategy(
                  CongestionControlRateLimitingStrategy.builder()
                      .setMaxInFlightRequests(getMaxInFlightRequests())
                      .setInitialMaxInFlightMessages(getMaxInFlightRequests() * getMaxBatchSize())
                      .setScalingStrategy(new NoOpScalingStrategy<>())
                      .build())
              .build(),
          states,
          new SimpleBatchCreator<>(getMaxBatchSizeInBytes()),
          new DequeRequestBuffer<>());
    }

    @Override
    protected void submitRequestEntries(List<byte[]> rows, ResultHandler<byte[]> result) {
      requests.execute(
          () -> {
            try {
              clickhouse.insert(insert, rows);
              pauseMs = SHORTEST_PAUSE_MS;
              result.complete();
            } catch (IOException away) {
              retryLater(rows, result, away);
            } catch (InterruptedException closing) {
              // The task ends; what was not acknowledged is read again.
            } catch (RuntimeException | Error fatal) {
              result.completeExceptionally(new IOException(fatal));
            }
          });
    }

    private void retryLater(List<byte[]> rows, ResultHandler<byte[]> result, IOException away) {
      LOG.warn("ClickHouse, again in {} ms: {}", pauseMs, away.toString());
      CompletableFuture.delayedExecutor(pauseMs, TimeUnit.MILLISECONDS).execute(() -> result.retryForEntries(rows));
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }

    /** Before a checkpoint the buffer is stored too, not put into the checkpoint: so the group's offsets alone are safe. */
    @Override
    public void flush(boolean endOfInput) throws InterruptedException {
      super.flush(true);
    }

    @Override
    protected long getSizeInBytes(byte[] row) {
      return row.length;
    }

    @Override
    public void close() {
      requests.shutdownNow();
    }
  }

  /** Demanded of a sink; the buffers are empty at a checkpoint. */
  private static final class RowSerializer extends AsyncSinkWriterStateSerializer<byte[]> {
    @Override
    protected void serializeRequestToStream(byte[] row, DataOutputStream out) throws IOException {
      out.write(row);
    }

    @Override
    protected byte[] deserializeRequestFromStream(long size, DataInputStream in) throws IOException {
      return in.readNBytes((int) size);
    }

    @Override
    public int getVersion() {
      return 1;
    }
  }
}
