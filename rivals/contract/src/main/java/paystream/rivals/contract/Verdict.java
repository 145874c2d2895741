package paystream.rivals.contract;

/** What a message is: a {@link Payment}, or refused for a {@link Fault}. */
public sealed interface Verdict permits Payment, Fault {}
