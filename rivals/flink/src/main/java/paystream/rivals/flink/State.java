package paystream.rivals.flink;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Optional;
import java.util.stream.Stream;

/** The folder that outlives the process: checkpoints, savepoints, and the cluster's own temporary files. */
record State(Path folder) {

  Path checkpoints() {
    return folder.resolve("checkpoints");
  }

  Path temporary() {
    return folder.resolve("tmp");
  }

  /** The newest complete checkpoint or savepoint. Flink renames its _metadata into place, so what has one is complete. */
  Optional<Path> newest() throws IOException {
    try (Stream<Path> all = Files.walk(checkpoints())) {
      return all.filter(path -> path.endsWith("_metadata")).max(Comparator.comparing(State::written)).map(Path::getParent);
    }
  }

  /** Make the folders. Temporary files that a killed process left are removed, else each kill costs 20 MB. */
  void prepare() throws IOException {
    if (Files.exists(temporary())) {
      try (Stream<Path> left = Files.walk(temporary())) {
        left.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
      }
    }
    Files.createDirectories(temporary());
    Files.createDirectories(checkpoints());
  }

  private static long written(Path path) {
    try {
      return Files.getLastModifiedTime(path).toMillis();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
