//! What nacos-client can do since it speaks gRPC: several instances of one service at once, and publishing what nobody else changed.

import com.alibaba.nacos.api.naming.pojo.Instance;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.List;
import java.util.Set;

class Story2 extends Story {
    Story2() throws Exception {}

    public static void main(String[] words) throws Exception {
        new Story2().tell();
    }

    @Override
    void more() throws Exception {
        step("batch", this::batch);
        step("cas", this::cas);
    }

    private void batch() throws Exception {
        Instance one = instance("10.1.0.2", 8081), two = instance("10.1.0.3", 8082);
        naming.batchRegisterInstance(PAIR, DEFAULT, List.of(one, two));
        please("expect " + PAIR + " 10.1.0.2:8081");
        please("expect " + PAIR + " 10.1.0.3:8082");
        eventually(() -> listed(PAIR).equals(Set.of("10.1.0.2:8081", "10.1.0.3:8082")));
        naming.batchDeregisterInstance(PAIR, DEFAULT, List.of(one));
        please("gone " + PAIR + " 10.1.0.2:8081");
        please("expect " + PAIR + " 10.1.0.3:8082");
    }

    private void cas() throws Exception {
        check(config.publishConfig("cas-" + RUN, GROUP, "one"));
        please("content cas-" + RUN + " one");
        check(!config.publishConfigCas("cas-" + RUN, GROUP, "two", md5("something else")));
        please("content cas-" + RUN + " one");
        check(config.publishConfigCas("cas-" + RUN, GROUP, "two", md5("one")));
        please("content cas-" + RUN + " two");
    }

    private static String md5(String text) throws Exception {
        byte[] sum = MessageDigest.getInstance("MD5").digest(text.getBytes(StandardCharsets.UTF_8));
        return String.format("%032x", new BigInteger(1, sum));
    }
}
