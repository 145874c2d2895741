package paystream.rivals.contract;

/** The reason that a message is refused for, as the table quarantine spells it. */
public record Fault(String reason) implements Verdict {}
