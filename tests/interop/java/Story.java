//! The story, told with the parts of nacos-client that all its versions have; `Story2` adds what came with 2.x.

import com.alibaba.nacos.api.NacosFactory;
import com.alibaba.nacos.api.config.ConfigService;
import com.alibaba.nacos.api.config.listener.AbstractListener;
import com.alibaba.nacos.api.naming.NamingService;
import com.alibaba.nacos.api.naming.listener.NamingEvent;
import com.alibaba.nacos.api.naming.pojo.Instance;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;

class Story {
    static final String RUN = System.getenv("RUN");
    static final String WEB = "web-" + RUN, PAIR = "pair-" + RUN, VAULT = "vault-" + RUN, APP = "app-" + RUN;
    static final String DEFAULT = "DEFAULT_GROUP", GROUP = "INTEROP";

    final NamingService naming = NacosFactory.createNamingService(settings());
    final ConfigService config = NacosFactory.createConfigService(settings());
    private final BufferedReader answers = new BufferedReader(new InputStreamReader(System.in));
    private boolean failed;

    // What the listeners were told last.
    private volatile Set<String> hosts = Set.of();
    private volatile String content = "";

    Story() throws Exception {}

    /** Where the server is, and who is asking it, if it asks. */
    private static Properties settings() {
        Properties settings = new Properties();
        settings.put("serverAddr", System.getenv("SERVER"));
        if (System.getenv("USER_NAME") != null) {
            settings.put("username", System.getenv("USER_NAME"));
            settings.put("password", System.getenv("PASS_WORD"));
        }
        return settings;
    }

    public static void main(String[] words) throws Exception {
        new Story().tell();
    }

    void tell() throws Exception {
        step("list", this::list);
        step("agent", () -> eventually(() -> listed("orders").contains(System.getenv("ORDERS"))));
        step("told", this::told);
        more();
        step("config", this::config);
        step("gone", this::remove);
        step("kept", this::persist);
        step("left", this::leave);
        step("back", this::comeBack);
        please("kill " + WEB + " 10.1.0.1:8080");
        System.exit(failed ? 1 : 0);
    }

    /** What only some versions can. */
    void more() throws Exception {}

    private void list() throws Exception {
        Instance web = instance("10.1.0.1", 8080);
        web.setWeight(2.5);
        web.setMetadata(Map.of("version", "1.4", "zone", "a b&c"));
        naming.registerInstance(WEB, web);
        eventually(() -> naming.getAllInstances(WEB, false).stream().anyMatch(it -> it.getIp().equals("10.1.0.1")
            && it.getWeight() == 2.5 && it.isHealthy() && it.getClusterName().equals("BLUE")
            && "1.4".equals(it.getMetadata().get("version")) && "a b&c".equals(it.getMetadata().get("zone"))));
        please("expect " + WEB + " 10.1.0.1:8080 weight=2.5 clusterName=BLUE version=1.4");
    }

    private void told() throws Exception {
        naming.subscribe(WEB, event -> hosts = addresses(((NamingEvent) event).getInstances()));
        please("add " + WEB + " 10.2.0.1:9090");
        soon(() -> hosts.equals(Set.of("10.1.0.1:8080", "10.2.0.1:9090")));
        please("remove " + WEB + " 10.2.0.1:9090");
        soon(() -> hosts.equals(Set.of("10.1.0.1:8080")));
    }

    private void config() throws Exception {
        check(config.getConfig("missing-" + RUN, GROUP, 3000) == null);
        check(config.publishConfig(APP, GROUP, "greeting: 你好"));
        please("content " + APP + " greeting: 你好");
        eventually(() -> "greeting: 你好".equals(config.getConfig(APP, GROUP, 3000)));
        config.addListener(APP, GROUP, new AbstractListener() {
            @Override
            public void receiveConfigInfo(String told) {
                content = told;
            }
        });
        for (String next : List.of("greeting: bonjour", "greeting: hola")) {
            please("publish " + APP + " " + next);
            eventually(() -> next.equals(content));
        }
    }

    private void remove() throws Exception {
        check(config.removeConfig(APP, GROUP));
        eventually(() -> content == null && config.getConfig(APP, GROUP, 3000) == null);
    }

    private void persist() throws Exception {
        Instance vault = instance("10.1.0.4", 8200);
        vault.setEphemeral(false);
        naming.registerInstance(VAULT, vault);
        please("expect " + VAULT + " 10.1.0.4:8200 ephemeral=false");
        naming.deregisterInstance(VAULT, DEFAULT, vault);
        please("gone " + VAULT + " 10.1.0.4:8200");
    }

    private void leave() throws Exception {
        naming.deregisterInstance(WEB, "10.1.0.1", 8080, "BLUE");
        please("gone " + WEB + " 10.1.0.1:8080");
        eventually(() -> naming.getAllInstances(WEB, false).isEmpty());
    }

    /** The registry is killed and comes back empty: what the library says again by itself, and what it still hears. */
    private void comeBack() throws Exception {
        naming.registerInstance(WEB, instance("10.1.0.1", 8080));
        check(config.publishConfig(APP, GROUP, "greeting: hello"));
        eventually(() -> "greeting: hello".equals(content) && hosts.contains("10.1.0.1:8080"));
        please("restart");
        please("expect " + WEB + " 10.1.0.1:8080");
        please("add " + WEB + " 10.2.0.2:9090");
        eventually(() -> hosts.contains("10.2.0.2:9090"));
        please("publish " + APP + " greeting: salut");
        eventually(() -> "greeting: salut".equals(content));
    }

    static Instance instance(String ip, int port) {
        Instance instance = new Instance();
        instance.setIp(ip);
        instance.setPort(port);
        instance.setClusterName("BLUE");
        return instance;
    }

    Set<String> listed(String service) throws Exception {
        return addresses(naming.getAllInstances(service, false));
    }

    private static Set<String> addresses(List<Instance> instances) {
        Set<String> addresses = new TreeSet<>();
        instances.forEach(it -> addresses.add(it.getIp() + ":" + it.getPort()));
        return addresses;
    }

    interface Step {
        void go() throws Exception;
    }

    void step(String name, Step step) {
        try {
            step.go();
            System.out.println("ok " + name);
        } catch (Exception | AssertionError e) {
            failed = true;
            StackTraceElement at = Arrays.stream(e.getStackTrace())
                .filter(it -> it.getFileName() != null && it.getFileName().startsWith("Story"))
                .filter(it -> !Set.of("check", "eventually", "please").contains(it.getMethodName())).findFirst().orElse(null);
            System.out.println("FAIL " + name + ": " + e + " at " + at + ", told " + hosts + ", content " + content);
        }
    }

    static void check(boolean condition) {
        if (!condition) throw new AssertionError("is not so");
    }

    /** Over HTTP a change that a poll just missed is told with the next one, half a minute later. */
    static void eventually(Callable<Boolean> condition) throws Exception {
        within(35, condition);
    }

    /** What a push tells, and not the next look, which is up to 10 s away. */
    static void soon(Callable<Boolean> condition) throws Exception {
        within(3, condition);
    }

    private static void within(int seconds, Callable<Boolean> condition) throws Exception {
        for (long end = System.nanoTime() + seconds * 1_000_000_000L; !condition.call(); Thread.sleep(50))
            if (System.nanoTime() > end) throw new AssertionError("not within " + seconds + " s");
    }

    /** Asks the runner, who stands outside with plain HTTP, to do or to see something. */
    void please(String deed) throws Exception {
        System.out.println("please " + deed);
        String answer = answers.readLine();
        if (!"yes".equals(answer)) throw new AssertionError(answer);
    }
}
