import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.*;

/** A server with one selector loop, in a thread that is not the main one. */
public class Server {
    static void serve(int port) throws Exception {
        var selector = Selector.open();
        var server = ServerSocketChannel.open().bind(new InetSocketAddress("127.0.0.1", port));
        server.configureBlocking(false).register(selector, SelectionKey.OP_ACCEPT);
        for (;;) {
            selector.select(100);
            var keys = selector.selectedKeys().iterator();
            for (; keys.hasNext(); keys.remove()) {
                var key = keys.next();
                if (key.isAcceptable()) {
                    var client = server.accept();
                    if (client == null) continue;
                    client.configureBlocking(false).register(selector, SelectionKey.OP_READ);
                    continue;
                }
                var client = (SocketChannel) key.channel();
                var bytes = ByteBuffer.allocate(64);
                int length = client.read(bytes);
                var word = new String(bytes.array(), 0, Math.max(length, 0)).trim();
                if (word.equals("sleep")) Thread.sleep(1_000_000);
                if (length > 0) client.write(ByteBuffer.wrap("well\n".getBytes()));
                client.close();
            }
        }
    }

    public static void main(String[] args) throws Exception {
        var thread = new Thread(() -> {
            try {
                serve(Integer.parseInt(args[0]));
            } catch (Exception error) {
                error.printStackTrace();
                System.exit(1);
            }
        });
        thread.start();
        thread.join();
    }
}
