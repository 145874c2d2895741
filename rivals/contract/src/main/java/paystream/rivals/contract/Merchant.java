package paystream.rivals.contract;

/** A merchant as of one snapshot. */
public record Merchant(String name, String country, String categoryCode, long snapshotId) {}
