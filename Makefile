# What people call by name. `make dist` is the program for a release, `make check` what must hold before a change lands.
#
#   make dist                  dist/outrigger: one static file, for TARGET (default: this machine's musl target)
#   make dist CARGO_FLAGS=...  more words for cargo, for example --no-default-features: http:// only
#   make image                 an image of it, with ENGINE (podman, docker or buildah)
#   make install DESTDIR=...   the program and its units, where Linux distributions have them
#   make check                 exactly what CI runs

TARGET ?= $(shell uname -m)-unknown-linux-musl
BINARY ?= dist/outrigger
ENGINE ?= podman
IMAGE ?= localhost/outrigger
PREFIX ?= /usr
CARGO_FLAGS ?=

.PHONY: check dist image install

check:
	bash .ci/run

# The target's standard library comes with rustup; musl-gcc, for the C of the TLS library, is Debian's musl-tools.
# No path of the machine that builds stays in the file.
dist:
	@rustc --print target-libdir --target $(TARGET) | xargs test -d || rustup target add $(TARGET)
	RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/src --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo" \
		cargo build --profile dist --locked --bin outrigger --target $(TARGET) $(CARGO_FLAGS)
	install -D -m 0755 $${CARGO_TARGET_DIR:-target}/$(TARGET)/dist/outrigger dist/outrigger
	@ls -l dist/outrigger

image: dist
	$(ENGINE) build -t $(IMAGE) -f Containerfile .

install:
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/outrigger
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system systemd/*.service
	install -D -m 0644 systemd/outrigger.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/outrigger.conf
	install -D -m 0644 systemd/outrigger.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/outrigger.conf
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/outrigger docs/*.md systemd/application.conf
