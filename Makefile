# The commands of the README, and what they stand on.
.PHONY: demo bench test nic-test portable instructions asan deb book setup setup-demo build help

CARGO ?= cargo

help:
	@echo 'make demo    install what is missing, build, show hearken at work on a virtual wire'
	@echo 'make bench   the same, then: what this machine does under load, in a minute, written to bench.html'
	@echo 'make test    install what is missing, run every test'
	@echo 'make nic-test  drivers of real NICs, in a virtual machine; make deb  the Debian package'

# What the build needs, then what the demo runs; .ci/setup says first what it installs.
setup-demo:
	@.ci/setup build demo

setup:
	@.ci/setup build demo test

build: setup-demo
	$(CARGO) build --release --locked -p dataplane

demo: build
	$(CARGO) run --release --locked -p dataplane --example demo

# Generator and server in one process: what this machine does, in a minute, as a page to look at.
bench: setup-demo
	$(CARGO) run --release --locked -p bench --bin hearken-load -- scenario overview --report bench.html

test: setup
	$(CARGO) test --locked --workspace
	$(CARGO) test --locked -p dataplane --no-default-features
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/loom \
		$(CARGO) test --locked -p hearken-listener --profile loom --test 'loom_*'
	$(MAKE) portable instructions

# The code for machines without vectors, built and tested here; and its instructions, counted (HEARKEN_BLESS=1: renewed).
PORTABLE = RUSTFLAGS="--cfg hearken_portable" CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/portable $(CARGO)
portable:
	$(PORTABLE) test --locked -p hearken-listener --profile portable --lib --test prop_table --test replay

# The listening hash's tests under AddressSanitizer, whose runtime comes with the toolchain. ThreadSanitizer reports the
# standard library, which is not built for it, and Miri needs a nightly toolchain; orders of memory are loom's matter.
asan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/asan \
		$(CARGO) test --locked -p hearken-listener --target $$(rustc -vV | sed -n 's/^host: //p') --lib --tests

instructions:
	$(PORTABLE) bench --locked -p dataplane --no-default-features --profile portable --bench instructions

# hearken on DPDK's drivers of real NICs, emulated in a virtual machine: some minutes; QEMU and a kernel are fetched as packages.
nic-test: setup
	HEARKEN_NIC_TEST=1 $(CARGO) test --locked -p dataplane --test nic -- --nocapture

# The Debian package, checked and tried in a fresh root (as root; wants cargo-deb, debootstrap and lintian).
deb: setup-demo
	configs/deb/try "$$(configs/deb/build)"

# The documentation as pages with a search, in target/book (wants mdbook).
book:
	mdbook build docs
