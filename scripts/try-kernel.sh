#!/bin/bash
# try-kernel.sh [-k DIR | -p PACKAGE] [-t SECONDS] [WHAT...] - this build on another kernel, in QEMU, without KVM.
#
# The kernel and its modules are a Debian package: extracted in DIR (`dpkg-deb -x`), or fetched by its
# name (default: the newest linux-image-6.1*-amd64 that apt knows) and extracted in build-kernel/;
# nothing is installed.  The machine has 2 GiB, 2 processors, cgroup version 2, no disk and no network:
# its file tree is bash, busybox, a few programs of this machine, and build/bin ($BUILD; krg* of $RELEASE, if that is set: say
# build-release, as `make install` makes it).  WHAT is run there, as
# scripts/try-kernel-guest.sh has it: lab, programs, unit (default: all), or the names of live_epm programs.
#
# Needs qemu-system-x86, busybox-static, cpio.  Exit status 0: all that was run passed.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD:-build}
release=${RELEASE:-$build}
kernel="" package="" seconds=900
while getopts k:p:t: opt; do
	case $opt in
	k) kernel=$OPTARG ;;
	p) package=$OPTARG ;;
	t) seconds=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))

say() {
	echo "try-kernel.sh: $*" >&2
}
for program in qemu-system-x86_64 busybox cpio strip; do
	command -v $program >/dev/null || {
		say "$program is missing (apt-get install qemu-system-x86 busybox-static cpio binutils)"
		exit 1
	}
done
[ -x "$build/bin/krgd" ] || {
	say "$build/bin/krgd is missing: make"
	exit 1
}

# ---- the kernel ----
if [ -z "$kernel" ]; then
	[ -n "$package" ] || package=$(apt-cache pkgnames linux-image-6.1 | grep -E '^linux-image-6\.1\.0-[0-9]+-amd64$' | sort -V | tail -n 1)
	[ -n "$package" ] || {
		say "apt knows no linux-image-6.1*-amd64 (apt-get update), and no -k DIR"
		exit 1
	}
	kernel=build-kernel/$package
	if ! compgen -G "$kernel/boot/vmlinuz-*" >/dev/null; then
		mkdir -p "$kernel"
		(cd "$kernel" && apt-get -q download "$package" >/dev/null && dpkg-deb -x ./*.deb . && rm ./*.deb)
	fi
fi
image=$(compgen -G "$kernel/boot/vmlinuz-*" | head -n 1) || {
	say "no $kernel/boot/vmlinuz-*"
	exit 1
}

# ---- the file tree ----
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,lib,lib64,etc,proc,sys,dev,run,tmp,root,krg/bin,modules,var/tmp}

program() { # FILE TO: with the libraries that it wants, where it wants them
	local lib
	cp -L "$1" "$root/$2"
	chmod u+w "$root/$2"
	strip --strip-debug "$root/$2" 2>/dev/null || true
	for lib in $(ldd "$1" 2>/dev/null | grep -oE '/[^ ]+' || true); do # a static one has none
		[ -e "$root$lib" ] || install -D "$lib" "$root$lib"
	done
}
program "$(command -v busybox)" bin/busybox
for applet in $(busybox --list); do
	[ "$applet" = busybox ] || ln -sf /bin/busybox "$root/bin/$applet"
done
for name in bash cat echo env false head hostname kill ls mkfifo nice perl printf rm seq setpriv sh sleep sort stty tail tee timeout true wc xz; do
	path=$(type -P "$name") || continue
	rm -f "$root/bin/$name"
	program "$path" "bin/$name"
done
ln -sf bash "$root/bin/sh"
ln -sf /bin/bash "$root/usr/bin/bash"
for path in "$build"/bin/{unit,live}_*; do
	program "$path" "krg/bin/$(basename "$path")"
done
for path in "$build"/bin/krg*; do
	[ -f "$path" ] || continue
	name=$(basename "$path")
	if [ -x "$release/bin/$name" ]; then
		path=$release/bin/$name
	fi
	program "$path" "krg/bin/$name"
done
for module in llc stp bridge veth fuse; do
	path=$(find "$kernel/lib/modules" -name "$module.ko*" | head -n 1)
	case $path in
	*.ko) cp "$path" "$root/modules/$module.ko" ;;
	*.ko.xz) xz -dc "$path" >"$root/modules/$module.ko" ;;
	esac
done
printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
cp scripts/try-kernel-guest.sh "$root/krg/guest.sh"
printf '#!/bin/bash\nexec bash /krg/guest.sh %s </dev/console >/dev/console 2>&1\n' "$*" >"$root/init"
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >"$work/initrd"

# ---- boot ----
say "$image, $(du -h "$work/initrd" | cut -f1), at most $seconds s"
timeout -k 5 "$seconds" nice qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 2048 -smp 2 \
	-nographic -monitor none -serial stdio -no-reboot -nic none -kernel "$image" -initrd "$work/initrd" \
	-append 'console=ttyS0 quiet panic=-1' </dev/null | sed -u 's|\r||g' | tee "$work/log" || true
grep -q '^TRY-KERNEL: all passed$' "$work/log"
