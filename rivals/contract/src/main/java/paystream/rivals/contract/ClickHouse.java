package paystream.rivals.contract;

import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;

/** ClickHouse over HTTP. Safe for threads. */
public final class ClickHouse {
  static {
    // Below the server's keep_alive_timeout, so that no request meets a connection that is being closed.
    if (System.getProperty("jdk.httpclient.keepalive.timeout") == null) {
      System.setProperty("jdk.httpclient.keepalive.timeout", "5");
    }
  }

  private final HttpClient http =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(5)).build();
  private final String url;
  private final String database;
  private final String user;
  private final String password;

  public ClickHouse(String url, String database, String user, String password) {
    this.url = url;
    this.database = database;
    this.user = user;
    this.password = password;
  }

  /** The server that RIVAL_CLICKHOUSE_… names. */
  public static ClickHouse fromEnvironment() {
    return new ClickHouse(
        System.getenv("RIVAL_CLICKHOUSE_URL"),
        System.getenv("RIVAL_CLICKHOUSE_DATABASE"),
        System.getenv("RIVAL_CLICKHOUSE_USER"),
        System.getenv().getOrDefault("RIVAL_CLICKHOUSE_PASSWORD", ""));
  }

  /**
   * Insert rows. After an IOException they may be stored or not.
   *
   * @param insert {@link Rows#INSERT_TRANSACTIONS} or {@link Rows#INSERT_QUARANTINE}
   */
  public void insert(String insert, Collection<byte[]> rows) throws IOException, InterruptedException {
    if (!rows.isEmpty()) {
      byte[] body = Rows.body(rows, System.currentTimeMillis());
      // A profile may have inserts wait in a queue, or be answered before they are stored: this one is stored when answered.
      send("&async_insert=0&wait_end_of_query=1&query=" + URLEncoder.encode(insert, StandardCharsets.UTF_8), body).close();
    }
  }

  /** Run a query and return its answer as it comes. */
  public InputStream query(String sql) throws IOException, InterruptedException {
    // Without it, an error after the first bytes would look like the end of the answer.
    return send("&wait_end_of_query=1", sql.getBytes(StandardCharsets.UTF_8));
  }

  private InputStream send(String parameters, byte[] body) throws IOException, InterruptedException {
    String path = "/?database=" + URLEncoder.encode(database, StandardCharsets.UTF_8) + parameters;
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(url + path))
            .header("X-ClickHouse-User", user)
            .header("X-ClickHouse-Key", password)
            .timeout(Duration.ofSeconds(60))
            .POST(HttpRequest.BodyPublishers.ofByteArray(body))
            .build();
    HttpResponse<InputStream> response = http.send(request, HttpResponse.BodyHandlers.ofInputStream());
    if (response.statusCode() != 200) {
      try (InputStream complaint = response.body()) {
        throw new IOException(new String(complaint.readNBytes(1000), StandardCharsets.UTF_8).strip());
      }
    }
    return response.body();
  }
}
