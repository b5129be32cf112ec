# What people call by name. `make dist` makes the program for a release, `make check` is what must hold before a change lands.
#
#   make dist                  dist/outrigger: one static file for TARGET, whose default is this machine's kind with musl
#   make dist CARGO_FLAGS=...  with more words for cargo, for example --no-default-features for http:// only
#   make dist PROFILE=dev     in a quarter of the time, for tests
#   make rootfs                dist/rootfs: what is in the image
#   make image                 the image IMAGE, made by ENGINE (podman, docker, buildah)
#   make install DESTDIR=...   the program and its units, where Linux distributions have them
#   make check                 exactly what CI runs

TARGET ?= $(shell uname -m)-unknown-linux-musl
PROFILE ?= release
CARGO_FLAGS ?=
BINARY ?= dist/outrigger
CA_BUNDLE ?= /etc/ssl/certs/ca-certificates.crt
ENGINE ?= podman
IMAGE ?= localhost/outrigger:0.1.0
PREFIX ?= /usr

built = $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/outrigger
# Static for every target, and no path of the machine that builds stays in the file.
cargo = $(or $(CARGO_HOME),$(HOME)/.cargo)
flags = -C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/src --remap-path-prefix=$(cargo)=/cargo
c_flags = -ffile-prefix-map=$(CURDIR)=/src -ffile-prefix-map=$(cargo)=/cargo

.PHONY: check dist rootfs image install

check:
	bash .ci/run

# The target's standard library comes from rustup. The C in the TLS library wants musl-gcc, which is in Debian's musl-tools.
dist:
	@test -d "$$(rustc --print target-libdir --target $(TARGET))" || rustup target add $(TARGET)
	RUSTFLAGS="$(flags)" TARGET_CFLAGS="$(c_flags)" cargo build --profile $(PROFILE) --locked --bin outrigger --target $(TARGET) $(CARGO_FLAGS)
	install -D -m 0755 $(built) dist/outrigger
	@ls -l dist/outrigger

# The user's number is fixed, so that Kubernetes sees that it is not root.
rootfs:
	rm -rf dist/rootfs
	install -D -m 0755 $(BINARY) dist/rootfs/outrigger
	install -D -m 0644 $(CA_BUNDLE) dist/rootfs/etc/ssl/certs/ca-certificates.crt
	install -d dist/rootfs/etc/outrigger/conf.d dist/rootfs/run/outrigger dist/rootfs/var/lib/outrigger
	echo 'outrigger:x:65532:65532::/:/sbin/nologin' >dist/rootfs/etc/passwd
	echo 'outrigger:x:65532:' >dist/rootfs/etc/group

image: dist rootfs
	$(ENGINE) build --tag $(IMAGE) --file Containerfile .

install:
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/outrigger
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system systemd/*.service
	install -D -m 0644 systemd/outrigger.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/outrigger.conf
	install -D -m 0644 systemd/outrigger.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/outrigger.conf
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/outrigger docs/*.md systemd/application.conf
