//! The story of a Spring Boot application: it registers because it started, and what it does else it does with Spring's own means.

package story;

import com.alibaba.cloud.nacos.NacosConfigManager;
import com.alibaba.nacos.api.config.ConfigService;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.Arrays;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.cloud.context.config.annotation.RefreshScope;
import org.springframework.cloud.endpoint.event.RefreshEvent;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.event.EventListener;

@SpringBootApplication
public class Story {
    static final String RUN = System.getenv("RUN");
    static final String WEB = "web-" + RUN, APP = "app-" + RUN + ".yaml";
    static final String GROUP = "INTEROP", ME = "10.1.0.1:8080";

    // Spring logs to where the answers would go.
    private static final PrintStream OUT = System.out;
    private static final BufferedReader ANSWERS = new BufferedReader(new InputStreamReader(System.in));
    private static boolean failed;

    private static ConfigurableApplicationContext application;
    private static volatile int refreshes;

    /** A part of the application that wants to be made anew when its configuration changed. */
    static class Greeter {
        private final String greeting;

        Greeter(String greeting) {
            this.greeting = greeting;
        }

        String greeting() {
            return greeting;
        }
    }

    @Bean
    @RefreshScope
    Greeter greeter(@Value("${greeting:none}") String greeting) {
        return new Greeter(greeting);
    }

    @EventListener
    void refresh(RefreshEvent told) {
        refreshes++;
    }

    public static void main(String[] words) throws Exception {
        System.setOut(System.err);
        step("list", Story::list);
        step("agent", () -> eventually(() -> listed("orders").contains(System.getenv("ORDERS"))));
        step("told", Story::told);
        step("config", Story::config);
        step("gone", Story::remove);
        step("left", Story::leave);
        step("back", Story::comeBack);
        please("kill " + WEB + " " + ME);
        System.exit(failed ? 1 : 0);
    }

    private static void list() throws Exception {
        start();
        eventually(() -> discovery().getInstances(WEB).stream().anyMatch(it -> address(it).equals(ME) && it.getMetadata().entrySet()
            .containsAll(Map.of("version", "1.4", "zone", "a b&c", "nacos.weight", "2.5", "nacos.cluster", "BLUE").entrySet())));
        please("expect " + WEB + " " + ME + " weight=2.5 clusterName=BLUE version=1.4");
        check(discovery().getServices().contains(WEB));
    }

    private static void told() throws Exception {
        please("add " + WEB + " 10.2.0.1:9090");
        soon(() -> listed(WEB).equals(Set.of(ME, "10.2.0.1:9090")));
        please("remove " + WEB + " 10.2.0.1:9090");
        soon(() -> listed(WEB).equals(Set.of(ME)));
    }

    private static void config() throws Exception {
        check(greeting().equals("none"));
        check(nacos().publishConfig(APP, GROUP, "greeting: 你好"));
        please("content " + APP + " greeting: 你好");
        eventually(() -> greeting().equals("你好"));
        for (String next : new String[] {"bonjour", "hola"}) {
            please("publish " + APP + " greeting: " + next);
            eventually(() -> greeting().equals(next));
        }
    }

    /** Spring is told, and reads nothing; it goes on with what it had read, which is its own way with every source. */
    private static void remove() throws Exception {
        int before = refreshes;
        check(nacos().removeConfig(APP, GROUP));
        eventually(() -> refreshes > before && nacos().getConfig(APP, GROUP, 3000) == null);
    }

    /** What the hook that Spring gives to the virtual machine does on TERM. */
    private static void leave() throws Exception {
        application.close();
        please("gone " + WEB + " " + ME);
    }

    /** The registry is killed and comes back empty: what the application says again by itself, and what it still hears. */
    private static void comeBack() throws Exception {
        start();
        please("publish " + APP + " greeting: hello");
        eventually(() -> greeting().equals("hello") && listed(WEB).equals(Set.of(ME)));
        please("restart");
        please("expect " + WEB + " " + ME + " weight=2.5 version=1.4");
        please("add " + WEB + " 10.2.0.2:9090");
        eventually(() -> listed(WEB).equals(Set.of(ME, "10.2.0.2:9090")));
        please("publish " + APP + " greeting: salut");
        eventually(() -> greeting().equals("salut"));
    }

    private static void start() {
        application = SpringApplication.run(Story.class);
    }

    private static ConfigService nacos() {
        return application.getBean(NacosConfigManager.class).getConfigService();
    }

    private static DiscoveryClient discovery() {
        return application.getBean(DiscoveryClient.class);
    }

    private static String greeting() {
        return application.getBean(Greeter.class).greeting();
    }

    private static Set<String> listed(String service) {
        Set<String> addresses = new TreeSet<>();
        discovery().getInstances(service).forEach(it -> addresses.add(address(it)));
        return addresses;
    }

    private static String address(ServiceInstance it) {
        return it.getHost() + ":" + it.getPort();
    }

    interface Step {
        void go() throws Exception;
    }

    private static void step(String name, Step step) {
        try {
            step.go();
            OUT.println("ok " + name);
        } catch (Exception | AssertionError e) {
            failed = true;
            StackTraceElement at = Arrays.stream(e.getStackTrace()).filter(it -> "Story.java".equals(it.getFileName()))
                .filter(it -> !Set.of("check", "eventually", "soon", "within", "please").contains(it.getMethodName()))
                .findFirst().orElse(null);
            OUT.println("FAIL " + name + ": " + String.valueOf(e).lines().findFirst().orElse("") + " at " + at);
        }
    }

    private static void check(boolean condition) {
        if (!condition) throw new AssertionError("is not so");
    }

    private static void eventually(Callable<Boolean> condition) throws Exception {
        within(35, condition);
    }

    /** What a push tells, and not the next look, which is up to 10 s away. */
    private static void soon(Callable<Boolean> condition) throws Exception {
        within(3, condition);
    }

    private static void within(int seconds, Callable<Boolean> condition) throws Exception {
        for (long end = System.nanoTime() + seconds * 1_000_000_000L; !condition.call(); Thread.sleep(50))
            if (System.nanoTime() > end) throw new AssertionError("not within " + seconds + " s");
    }

    /** Asks the runner, who stands outside with plain HTTP, to do or to see something. */
    private static void please(String deed) throws Exception {
        OUT.println("please " + deed);
        String answer = ANSWERS.readLine();
        if (!"yes".equals(answer)) throw new AssertionError(answer);
    }
}
