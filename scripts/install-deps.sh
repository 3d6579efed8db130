#!/bin/bash
# install-deps.sh [SET]... - install the Debian packages that are missing, as root.
#
# SETs: build (default: build, run, demo, check), lint (clang, its tools and sanitizers: CI, lint,
# asan, tsan, fuzz), bench (what the figures are compared with).  Nothing missing: no output, and
# no package list is fetched.
set -euo pipefail

build=(gcc libc6-dev make cmake ninja-build pkg-config libssl-dev libfuse3-dev libjansson-dev libbpf-dev
	fuse3 iproute2 procps psmisc util-linux xz-utils findutils git)
lint=(clang clang-19 clang-format clang-tidy libclang-rt-14-dev llvm python3)
bench=(openssh-server openssh-client)

wanted=()
for set in "${@:-build}"; do
	case $set in
	build) wanted+=("${build[@]}") ;;
	lint) wanted+=("${lint[@]}") ;;
	bench) wanted+=("${bench[@]}") ;;
	*)
		echo "install-deps.sh: no such set: $set (build, lint, bench)" >&2
		exit 2
		;;
	esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	# Not a Debian: the build says itself what it does not find.
	echo "install-deps.sh: not a Debian system; needed are the equivalents of: ${wanted[*]}" >&2
	exit 0
fi
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${wanted[@]}" 2>/dev/null |
	awk '$1 == "ii" { print $2 }' || true)
missing=()
for package in "${wanted[@]}"; do
	grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "install-deps.sh: missing packages; as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt=(apt-get -q -y -o DPkg::Lock::Timeout=300)
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } \
	</dev/null >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "install-deps.sh: apt-get failed (above); missing: ${missing[*]}" >&2
	exit 1
fi
