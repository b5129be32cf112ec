// The story, told with nacos-sdk-go v2: gRPC, but for persistent instances, which it sends over HTTP.
package main

import (
	"bufio"
	"crypto/md5"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nacos-group/nacos-sdk-go/v2/clients"
	"github.com/nacos-group/nacos-sdk-go/v2/clients/config_client"
	"github.com/nacos-group/nacos-sdk-go/v2/clients/naming_client"
	"github.com/nacos-group/nacos-sdk-go/v2/common/constant"
	"github.com/nacos-group/nacos-sdk-go/v2/model"
	"github.com/nacos-group/nacos-sdk-go/v2/vo"
)

const group = "INTEROP"

var (
	run                   = os.Getenv("RUN")
	web, pair, vault, app = "web-" + run, "pair-" + run, "vault-" + run, "app-" + run
	naming                naming_client.INamingClient
	config                config_client.IConfigClient
	answers               = bufio.NewScanner(os.Stdin)
	failed                bool

	// What the callbacks were told last.
	lock    sync.Mutex
	hosts   []string
	content string
)

func main() {
	connect()
	step("list", list)
	step("agent", func() error {
		return eventually(func() bool { return slices.Contains(listed("orders"), os.Getenv("ORDERS")) })
	})
	step("told", told)
	step("batch", batch)
	step("config", configuration)
	step("cas", cas)
	step("gone", gone)
	step("kept", kept)
	step("left", left)
	step("back", back)
	please("kill", web, "10.1.0.1:8080")
	if failed {
		os.Exit(1)
	}
}

func connect() {
	host, port, err := net.SplitHostPort(os.Getenv("SERVER"))
	must(err)
	number, err := strconv.ParseUint(port, 10, 16)
	must(err)
	param := vo.NacosClientParam{
		ClientConfig: constant.NewClientConfig(
			constant.WithTimeoutMs(5000),
			constant.WithNotLoadCacheAtStart(true),
			constant.WithLogDir("log"),
			constant.WithCacheDir("cache"),
			constant.WithLogLevel("warn"),
			constant.WithUsername(os.Getenv("USER_NAME")),
			constant.WithPassword(os.Getenv("PASS_WORD")),
		),
		ServerConfigs: []constant.ServerConfig{*constant.NewServerConfig(host, number)},
	}
	naming, err = clients.NewNamingClient(param)
	must(err)
	config, err = clients.NewConfigClient(param)
	must(err)
}

func list() error {
	param := instance(web, "10.1.0.1", 8080)
	param.Weight = 2.5
	param.Metadata = map[string]string{"version": "1.4", "zone": "a b&c"}
	// A new client may still be connecting.
	if err := eventually(func() bool { return register(param) == nil }); err != nil {
		return err
	}
	err := eventually(func() bool {
		all, err := naming.SelectAllInstances(vo.SelectAllInstancesParam{ServiceName: web})
		return err == nil && len(all) == 1 && all[0].Ip == "10.1.0.1" && all[0].Weight == 2.5 && all[0].Healthy &&
			all[0].ClusterName == "BLUE" && all[0].Metadata["version"] == "1.4" && all[0].Metadata["zone"] == "a b&c"
	})
	return errors.Join(err, please("expect", web, "10.1.0.1:8080", "weight=2.5", "clusterName=BLUE", "version=1.4"))
}

func told() error {
	err := naming.Subscribe(&vo.SubscribeParam{ServiceName: web, SubscribeCallback: func(all []model.Instance, err error) {
		lock.Lock()
		defer lock.Unlock()
		hosts = addresses(all)
	}})
	if err != nil {
		return err
	}
	if err := please("add", web, "10.2.0.1:9090"); err != nil {
		return err
	}
	if err := eventually(func() bool { return slices.Equal(heard(), []string{"10.1.0.1:8080", "10.2.0.1:9090"}) }); err != nil {
		return err
	}
	if err := please("remove", web, "10.2.0.1:9090"); err != nil {
		return err
	}
	return eventually(func() bool { return slices.Equal(heard(), []string{"10.1.0.1:8080"}) })
}

func batch() error {
	done, err := naming.BatchRegisterInstance(vo.BatchRegisterInstanceParam{ServiceName: pair, Instances: []vo.RegisterInstanceParam{
		instance(pair, "10.1.0.2", 8081), instance(pair, "10.1.0.3", 8082),
	}})
	if err != nil || !done {
		return fmt.Errorf("registered: %v, %w", done, err)
	}
	err = eventually(func() bool { return slices.Equal(listed(pair), []string{"10.1.0.2:8081", "10.1.0.3:8082"}) })
	return errors.Join(err, please("expect", pair, "10.1.0.2:8081"), please("expect", pair, "10.1.0.3:8082"))
}

func configuration() error {
	if missing, err := get("missing-" + run); err != nil || missing != "" {
		return fmt.Errorf("what is missing is %q, %w", missing, err)
	}
	if err := publish(app, "greeting: 你好", ""); err != nil {
		return err
	}
	if err := please("content", app, "greeting:", "你好"); err != nil {
		return err
	}
	if found, err := get(app); err != nil || found != "greeting: 你好" {
		return fmt.Errorf("read %q, %w", found, err)
	}
	err := config.ListenConfig(vo.ConfigParam{DataId: app, Group: group, OnChange: func(_, _, _, data string) {
		lock.Lock()
		defer lock.Unlock()
		content = data
	}})
	if err != nil {
		return err
	}
	for _, next := range []string{"greeting: bonjour", "greeting: hola"} {
		if err := please("publish", app, next); err != nil {
			return err
		}
		if err := eventually(func() bool { return read() == next }); err != nil {
			return err
		}
	}
	return nil
}

func cas() error {
	data := "cas-" + run
	if err := errors.Join(publish(data, "one", ""), please("content", data, "one")); err != nil {
		return err
	}
	if publish(data, "two", sum("something else")) == nil {
		return errors.New("a wrong casMd5 was taken")
	}
	return errors.Join(please("content", data, "one"), publish(data, "two", sum("one")), please("content", data, "two"))
}

func gone() error {
	if done, err := config.DeleteConfig(vo.ConfigParam{DataId: app, Group: group}); err != nil || !done {
		return fmt.Errorf("deleted: %v, %w", done, err)
	}
	return eventually(func() bool { found, err := get(app); return err == nil && found == "" && read() == "" })
}

func kept() error {
	param := instance(vault, "10.1.0.4", 8200)
	param.Ephemeral = false
	if err := register(param); err != nil {
		return err
	}
	if err := please("expect", vault, "10.1.0.4:8200", "ephemeral=false"); err != nil {
		return err
	}
	return errors.Join(deregister(param), please("gone", vault, "10.1.0.4:8200"))
}

func left() error {
	if err := deregister(instance(web, "10.1.0.1", 8080)); err != nil {
		return err
	}
	return please("gone", web, "10.1.0.1:8080")
}

// The registry is killed and comes back empty: what the library says again by itself, and what it still hears.
func back() error {
	if err := errors.Join(register(instance(web, "10.1.0.1", 8080)), publish(app, "greeting: hello", "")); err != nil {
		return err
	}
	if err := eventually(func() bool { return read() == "greeting: hello" && slices.Contains(heard(), "10.1.0.1:8080") }); err != nil {
		return err
	}
	for _, deed := range [][]string{{"restart"}, {"expect", web, "10.1.0.1:8080"}, {"add", web, "10.2.0.2:9090"}} {
		if err := please(deed...); err != nil {
			return err
		}
	}
	if err := eventually(func() bool { return slices.Contains(heard(), "10.2.0.2:9090") }); err != nil {
		return err
	}
	if err := please("publish", app, "greeting: salut"); err != nil {
		return err
	}
	return eventually(func() bool { return read() == "greeting: salut" })
}

func instance(service, ip string, port uint64) vo.RegisterInstanceParam {
	return vo.RegisterInstanceParam{ServiceName: service, Ip: ip, Port: port, ClusterName: "BLUE", Weight: 1,
		Enable: true, Healthy: true, Ephemeral: true}
}

func register(it vo.RegisterInstanceParam) error {
	done, err := naming.RegisterInstance(it)
	if err == nil && !done {
		err = errors.New("not registered")
	}
	return err
}

func deregister(it vo.RegisterInstanceParam) error {
	done, err := naming.DeregisterInstance(vo.DeregisterInstanceParam{ServiceName: it.ServiceName, Ip: it.Ip, Port: it.Port,
		Cluster: it.ClusterName, Ephemeral: it.Ephemeral})
	if err == nil && !done {
		err = errors.New("not deregistered")
	}
	return err
}

func listed(service string) []string {
	all, _ := naming.SelectAllInstances(vo.SelectAllInstancesParam{ServiceName: service})
	return addresses(all)
}

func addresses(all []model.Instance) []string {
	var found []string
	for _, it := range all {
		found = append(found, fmt.Sprintf("%s:%d", it.Ip, it.Port))
	}
	slices.Sort(found)
	return found
}

func get(dataID string) (string, error) {
	return config.GetConfig(vo.ConfigParam{DataId: dataID, Group: group})
}

func publish(dataID, content, casMd5 string) error {
	done, err := config.PublishConfig(vo.ConfigParam{DataId: dataID, Group: group, Content: content, CasMd5: casMd5})
	if err == nil && !done {
		err = errors.New("not published")
	}
	return err
}

func heard() []string {
	lock.Lock()
	defer lock.Unlock()
	return hosts
}

func read() string {
	lock.Lock()
	defer lock.Unlock()
	return content
}

func sum(text string) string { return fmt.Sprintf("%x", md5.Sum([]byte(text))) }

func step(name string, tell func() error) {
	if err := tell(); err != nil {
		failed = true
		fmt.Printf("FAIL %s: %s; told %v, content %q\n", name, strings.ReplaceAll(err.Error(), "\n", "; "), heard(), read())
		return
	}
	fmt.Println("ok " + name)
}

// The library reads a configuration at most five times a second.
func eventually(condition func() bool) error {
	for end := time.Now().Add(35 * time.Second); !condition(); time.Sleep(250 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("not within 35 s")
		}
	}
	return nil
}

// Asks the runner, who stands outside with plain HTTP, to do or to see something.
func please(deed ...string) error {
	fmt.Println("please " + strings.Join(deed, " "))
	if !answers.Scan() {
		return errors.New("nobody answers")
	}
	if answers.Text() != "yes" {
		return errors.New(strings.Join(deed, " ") + ": " + answers.Text())
	}
	return nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
