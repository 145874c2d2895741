import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;

/** Prints the settlement of a day as ClickHouse's JDBC driver reads it: java ReadReport.java URL USER DAY. */
public class ReadReport {
    public static void main(String[] arguments) throws Exception {
        String query = "SELECT merchant_name, currency, transactions, net FROM report_settlement_by_day"
            + " WHERE day = ? ORDER BY merchant_name, currency";
        try (Connection connection = DriverManager.getConnection(arguments[0], arguments[1], "");
                PreparedStatement statement = connection.prepareStatement(query)) {
            statement.setDate(1, java.sql.Date.valueOf(arguments[2]));
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) {
                    System.out.println(String.join("\t", rows.getString("merchant_name"), rows.getString("currency"),
                        Long.toString(rows.getLong("transactions")), rows.getBigDecimal("net").toPlainString()));
                }
            }
        }
    }
}
