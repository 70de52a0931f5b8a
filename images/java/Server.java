// SPDX-License-Identifier: Apache-2.0
//
// Server PORT RECORDS: answers GET /record/N, /sum (SHA-256 of all records), /collect (the same, after a full
// garbage collection, which moves them all) and /ticks (of a timer, ten a second).
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

public final class Server {
    private final Map<Integer, String> records = new HashMap<>();
    private final AtomicLong ticks = new AtomicLong();

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error);
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    private static String record(int number) {
        StringBuilder text = new StringBuilder();
        for (int part = 0; part < 16; part++)
            text.append(HexFormat.of().formatHex(sha256().digest(bytes(number + "/" + part))));
        return text.toString();
    }

    private String sum() {
        MessageDigest all = sha256();
        for (int number = 0; number < records.size(); number++)
            all.update(bytes(records.get(number)));
        return HexFormat.of().formatHex(all.digest());
    }

    private String answer(String[] words) {
        switch (words[1]) {
            case "record":
                return records.get(Integer.parseInt(words[2]));
            case "collect":
                System.gc();
                return sum();
            case "sum":
                return sum();
            case "ticks":
                return Long.toString(ticks.get());
            default:
                throw new IllegalArgumentException(words[1]);
        }
    }

    private void handle(HttpExchange exchange) throws IOException {
        byte[] body = bytes(answer(exchange.getRequestURI().getPath().split("/")));
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    private void serve(int port, int count) throws IOException {
        for (int number = 0; number < count; number++)
            records.put(number, record(number));
        Executors.newSingleThreadScheduledExecutor()
            .scheduleAtFixedRate(ticks::incrementAndGet, 100, 100, TimeUnit.MILLISECONDS);
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 64);
        server.createContext("/", this::handle);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }

    public static void main(String[] arguments) throws IOException {
        new Server().serve(Integer.parseInt(arguments[0]), Integer.parseInt(arguments[1]));
    }
}
