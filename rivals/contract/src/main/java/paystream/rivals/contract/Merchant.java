package paystream.rivals.contract;

import java.io.Serializable;

/** A merchant as of one snapshot. */
public record Merchant(String name, String country, String categoryCode, long snapshotId) implements Serializable {}
