package paystream.rivals.contract;

import java.util.Collection;
import java.util.Comparator;
import java.util.List;

/** All quotes of one currency, found by day. */
public final class Rates {
  private final Rate[] periods;

  /** Take quotes whose periods don't overlap, in any order. */
  public Rates(Collection<Rate> periods) {
    this.periods = periods.stream().sorted(Comparator.comparingInt(Rate::validFrom)).toArray(Rate[]::new);
  }

  /** The quotes, by the first day they hold for. */
  public List<Rate> periods() {
    return List.of(periods);
  }

  /** The quote that holds on a day, or null. */
  public Rate at(int day) {
    int low = 0;
    int high = periods.length - 1;
    while (low <= high) {
      int middle = (low + high) >>> 1;
      if (periods[middle].validTo() < day) {
        low = middle + 1;
      } else if (periods[middle].validFrom() > day) {
        high = middle - 1;
      } else {
        return periods[middle];
      }
    }
    return null;
  }
}
