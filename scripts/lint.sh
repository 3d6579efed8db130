#!/bin/bash
# lint.sh [format] [headers] [locks] [tidy] - what a look at the code alone can find.  Default: all.
#
# format: clang-format 14, on what git tracks; no number of a record twice.  headers: each compiles alone.  locks: clang's
# thread-safety analysis (src/base/lock.h), with clang 19, which understands KRG_GUARD.  tidy:
# clang-tidy with .clang-tidy.  Both over the compile commands of a clang build in build-clang/ (made when missing); the
# tests and benches are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

tracked() { # PATTERN...
	git ls-files -- "$@" | while read -r f; do [ ! -e "$f" ] || echo "$f"; done
}

lint_format() {
	local bad=0 f
	tracked '*.c' '*.h' | xargs -r clang-format --dry-run -Werror || bad=1
	while read -r f; do
		bash -n "$f" || bad=1
	done < <(tracked '*.sh' .ci/run)
	if tracked '*.c' '*.h' '*.sh' '*.md' '*.cmake' | xargs -r grep -nE '[[:blank:]]+$|^<<<<<<<|^>>>>>>>' /dev/null; then
		echo "blanks at the end of these lines, or a merge left over"
		bad=1
	fi
	# the number is how a reader knows a record
	if tracked 'src/*.c' 'src/*.h' | xargs -r grep -hoE '^KRG_RECORD\([a-z0-9_]+, [0-9a-fx]+' | awk '{ print $2 }' | sort |
		uniq -d | grep .; then
		echo "numbers of records that are used twice"
		bad=1
	fi
	return $bad
}

lint_headers() {
	local bad=0 h paths=() dir
	for dir in src/*/ include tools/*/ test; do
		paths+=(-iquote "$dir")
	done
	while read -r h; do
		gcc -std=gnu17 -D_GNU_SOURCE -DKRG_CHECKS=1 -DKRG_VERSION='"x"' -Wall -Wextra -Werror \
			-fsyntax-only -x c -iquote "$(dirname "$h")" "${paths[@]}" -Iinclude \
			-include "$h" /dev/null || {
			echo "$h does not compile alone"
			bad=1
		}
	done < <(tracked 'src/*.h' 'include/*.h' 'tools/*.h' 'test/*.h')
	return $bad
}

clang_build() {
	build=build-clang
	if [ ! -e $build/build.ninja ]; then
		cmake -S . -B $build -G Ninja -DCMAKE_C_COMPILER=clang >/dev/null
	fi
	ninja -C $build --quiet # some headers are made by the build
}

lint_locks() {
	local build
	clang_build
	python3 - $build/compile_commands.json <<'PY' | tr '\n' '\0' | xargs -0 -P "$(nproc)" -I '{}' sh -c '{}'
import json, shlex, sys
for entry in json.load(open(sys.argv[1])):
    if "/test/" in entry["file"]:  # where the order is broken on purpose
        continue
    words = shlex.split(entry["command"])
    for option in ("-o", "-MT", "-MF"):
        if option in words:
            del words[words.index(option):words.index(option) + 2]
    words = [w for w in words[1:] if w not in ("-MD", "-Werror")]
    print("cd %s && clang-19 -fsyntax-only -Wno-everything -Wthread-safety -Wthread-safety-beta "
          "-Werror=thread-safety -Werror=thread-safety-beta %s"
          % (shlex.quote(entry["directory"]), shlex.join(w for w in words if not w.startswith("-W"))))
PY
}

lint_tidy() {
	local build
	clang_build
	local log=$build/tidy.log rc=0
	run-clang-tidy -p $build -j "$(nproc)" -quiet -header-filter="$PWD/(src|tools|include|bench)/.*" "$PWD/(src|tools|include)/.*\.c$" \
		>$log 2>&1 || rc=$?
	sed -i 's/\x1b\[[0-9;]*m//g' $log
	grep -vE '^(clang-tidy(-14)? |[0-9]+ warnings? generated|Suppressed |Use -header-filter)|^$' $log || true
	return $rc
}

for what in "${@:-all}"; do
	case $what in
	format | headers | locks | tidy) "lint_$what" ;;
	all)
		lint_format
		lint_headers
		lint_locks
		lint_tidy
		;;
	*)
		echo "lint.sh: $what: format, headers, locks or tidy" >&2
		exit 2
		;;
	esac
done
