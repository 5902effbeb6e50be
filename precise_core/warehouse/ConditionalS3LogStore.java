package precise;

import io.delta.storage.S3SingleDriverLogStore;
import java.io.ByteArrayOutputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.util.Arrays;
import java.util.Iterator;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.s3a.S3AFileSystem;
import org.apache.hadoop.fs.s3a.impl.PutObjectOptions;
import org.apache.hadoop.fs.s3a.impl.StoreContext;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.model.PutObjectRequest;
import software.amazon.awssdk.services.s3.model.S3Exception;

/**
 * Commits to a Delta log on S3 by a PUT with `If-None-Match: *`: of two writers of one version the store takes the
 * first and refuses the other, which Delta then lets try the next version. deltalake commits in the same way.
 *
 * <p>The store of Delta itself asks first whether the entry is there and then writes it: of two Spark drivers both can
 * find nothing, and the later one replaces the commit of the earlier.
 */
public final class ConditionalS3LogStore extends S3SingleDriverLogStore {
  private static final int REFUSED = 412;
  private static final int BUSY = 409; // another one is writing the same entry at this moment: to be tried again
  private static final int MOST_TRIES = 10;
  private static final long PAUSE_MILLISECONDS = 200;

  public ConditionalS3LogStore(Configuration conf) {
    super(conf);
  }

  @Override
  public void write(Path path, Iterator<String> actions, Boolean overwrite, Configuration conf) throws IOException {
    if (overwrite) {
      super.write(path, actions, overwrite, conf);
      return;
    }
    S3AFileSystem s3a = (S3AFileSystem) path.getFileSystem(conf);
    Path entry = s3a.makeQualified(path);
    byte[] content = bytesOf(actions);
    for (int tries = 1; !isPut(s3a, entry, content, tries == MOST_TRIES); tries++) {
      try (InputStream found = s3a.open(entry)) {
        // An answer can get lost: the PUT that was sent again meets the entry that the first one has made. No other
        // writer's is equal, every commit has an id of its own.
        if (Arrays.equals(found.readAllBytes(), content)) {
          return;
        }
        throw new FileAlreadyExistsException(entry.toString());
      } catch (FileNotFoundException notYet) {
        pause(entry);
      }
    }
  }

  /** Whether this PUT has made the entry; with the store's own encryption, access list and retries. */
  private static boolean isPut(S3AFileSystem s3a, Path entry, byte[] content, boolean isLastTry) throws IOException {
    StoreContext store = s3a.createStoreContext();
    PutObjectRequest request =
        store
            .getRequestFactory()
            .newPutObjectRequestBuilder(store.pathToKey(entry), PutObjectOptions.keepingDirs(), content.length, false)
            // As a header: older SDKs, which clusters have, know no ifNoneMatch().
            .overrideConfiguration(more -> more.putHeader("If-None-Match", "*"))
            .build();
    S3Client client = s3a.getS3AInternals().getAmazonS3Client("Delta commit");
    return store
        .getInvoker()
        .retry(
            "Delta commit",
            entry.toString(),
            true,
            () -> {
              try {
                client.putObject(request, RequestBody.fromBytes(content));
                return true;
              } catch (S3Exception error) {
                if (error.statusCode() == REFUSED || (error.statusCode() == BUSY && !isLastTry)) {
                  return false;
                }
                throw error;
              }
            });
  }

  private static byte[] bytesOf(Iterator<String> actions) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    while (actions.hasNext()) {
      bytes.writeBytes((actions.next() + "\n").getBytes(StandardCharsets.UTF_8));
    }
    return bytes.toByteArray();
  }

  private static void pause(Path entry) throws IOException {
    try {
      Thread.sleep(PAUSE_MILLISECONDS);
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted while committing " + entry, error);
    }
  }
}
