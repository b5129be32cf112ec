// The story, told with nacos-sdk-go 1: HTTP v1, everything in a form body.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nacos-group/nacos-sdk-go/clients"
	"github.com/nacos-group/nacos-sdk-go/clients/config_client"
	"github.com/nacos-group/nacos-sdk-go/clients/naming_client"
	"github.com/nacos-group/nacos-sdk-go/common/constant"
	"github.com/nacos-group/nacos-sdk-go/model"
	"github.com/nacos-group/nacos-sdk-go/vo"
)

const group = "INTEROP"

var (
	run             = os.Getenv("RUN")
	web, vault, app = "web-" + run, "vault-" + run, "app-" + run
	naming          naming_client.INamingClient
	config          config_client.IConfigClient
	answers         = bufio.NewScanner(os.Stdin)
	failed          bool

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
	step("config", configuration)
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
		ClientConfig: &constant.ClientConfig{TimeoutMs: 5000, NotLoadCacheAtStart: true, LogDir: "log", CacheDir: "cache",
			LogLevel: "warn", Username: os.Getenv("USER_NAME"), Password: os.Getenv("PASS_WORD")},
		ServerConfigs: []constant.ServerConfig{{IpAddr: host, Port: number, ContextPath: "/nacos"}},
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
	if err := register(param); err != nil {
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
	err := naming.Subscribe(&vo.SubscribeParam{ServiceName: web, SubscribeCallback: func(all []model.SubscribeService, err error) {
		lock.Lock()
		defer lock.Unlock()
		hosts = nil
		for _, it := range all {
			hosts = append(hosts, fmt.Sprintf("%s:%d", it.Ip, it.Port))
		}
		slices.Sort(hosts)
	}})
	if err != nil {
		return err
	}
	if err := please("add", web, "10.2.0.1:9090"); err != nil {
		return err
	}
	if err := soon(func() bool { return slices.Equal(heard(), []string{"10.1.0.1:8080", "10.2.0.1:9090"}) }); err != nil {
		return err
	}
	if err := please("remove", web, "10.2.0.1:9090"); err != nil {
		return err
	}
	return soon(func() bool { return slices.Equal(heard(), []string{"10.1.0.1:8080"}) })
}

func configuration() error {
	if missing, err := get("missing-" + run); err != nil || missing != "" {
		return fmt.Errorf("what is missing is %q, %w", missing, err)
	}
	if err := publish(app, "greeting: 你好"); err != nil {
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
	if err := errors.Join(register(instance(web, "10.1.0.1", 8080)), publish(app, "greeting: hello")); err != nil {
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

func publish(dataID, content string) error {
	done, err := config.PublishConfig(vo.ConfigParam{DataId: dataID, Group: group, Content: content})
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

func step(name string, tell func() error) {
	if err := tell(); err != nil {
		failed = true
		fmt.Printf("FAIL %s: %s; told %v, content %q\n", name, strings.ReplaceAll(err.Error(), "\n", "; "), heard(), read())
		return
	}
	fmt.Println("ok " + name)
}

func eventually(condition func() bool) error {
	return within(35*time.Second, condition)
}

// What a push tells, and not the next look, which is up to 10 s away.
func soon(condition func() bool) error {
	return within(3*time.Second, condition)
}

func within(limit time.Duration, condition func() bool) error {
	for end := time.Now().Add(limit); !condition(); time.Sleep(250 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v", limit)
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
