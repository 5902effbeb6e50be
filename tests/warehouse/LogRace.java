import io.delta.storage.CloseableIterator;
import io.delta.storage.LogStore;
import java.io.IOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.hadoop.conf.Configuration;

/**
 * One of several writers of a Delta log, as fast as it can, by a log store: what Delta does with it, without Spark.
 *
 * <p>Arguments: class of the log store, endpoint, folder of the log, own name, commits, folder of signs. Prints how many
 * commits were acknowledged, how many of them are the writer's own once all have ended, and how often it was refused.
 */
public class LogRace {
  public static void main(String[] args) throws Exception {
    Configuration conf = new Configuration();
    conf.set("fs.s3a.endpoint", args[1]);
    conf.set("fs.s3a.path.style.access", "true");
    conf.set("fs.s3a.endpoint.region", "us-east-1");
    LogStore store = (LogStore) Class.forName(args[0]).getConstructor(Configuration.class).newInstance(conf);
    String log = args[2];
    String name = args[3];
    int commits = Integer.parseInt(args[4]);
    Path signs = Path.of(args[5]);

    store.write(new org.apache.hadoop.fs.Path(log + "/" + name), List.of(name).iterator(), false, conf);
    meet(signs, name + ".ready", "start");
    List<Integer> mine = new ArrayList<>();
    int refused = 0;
    for (int version = 0; mine.size() < commits; version++) {
      try {
        store.write(entry(log, version), List.of(name + " " + version).iterator(), false, conf);
        mine.add(version);
      } catch (FileAlreadyExistsException taken) {
        refused++;
      }
    }
    meet(signs, name + ".done", "count");
    int kept = 0;
    for (int version : mine) {
      kept += isOf(store, log, version, name, conf) ? 1 : 0;
    }
    System.out.println(mine.size() + " " + kept + " " + refused);
    System.exit(0);
  }

  private static org.apache.hadoop.fs.Path entry(String log, int version) {
    return new org.apache.hadoop.fs.Path(String.format("%s/%020d.json", log, version));
  }

  private static boolean isOf(LogStore store, String log, int version, String name, Configuration conf)
      throws IOException {
    try (CloseableIterator<String> lines = store.read(entry(log, version), conf)) {
      return lines.next().equals(name + " " + version);
    }
  }

  private static void meet(Path signs, String own, String awaited) throws Exception {
    Files.createFile(signs.resolve(own));
    while (!Files.exists(signs.resolve(awaited))) {
      Thread.sleep(1);
    }
  }
}
