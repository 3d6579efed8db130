# bash completion of krg, krgadm and krgcapset                      -*- shell-script -*-
#
# What depends on the cluster is asked of the command that stands on the line, with the lab, node or
# socket that stand there.

_krg_caps="CHANGE_KERRIGHED_CAP CAN_MIGRATE DISTANT_FORK FORK_DELAY CHECKPOINTABLE
	USE_REMOTE_MEMORY USE_INTRA_CLUSTER_KERSTREAMS USE_INTER_CLUSTER_KERSTREAMS
	USE_WORLD_VISIBLE_KERSTREAMS SEE_LOCAL_PROC_STAT DEBUG DISTANT_EXEC"
_krg_commands="lab node run sh ps kill migrate caps stat execs trace version help"
_krg_common="--socket --lab --node --json --help"

# krg itself, asked as the line says
_krg_ask() {
	local krg=${COMP_WORDS[0]} i options=()
	case $krg in
	*/*) krg=${krg%/*}/krg ;;
	*) krg=krg ;;
	esac
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--) break ;;
		--lab | --socket) options+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}") ;;
		--name) options+=(--lab "${COMP_WORDS[i + 1]}") ;;
		esac
	done
	"$krg" "$@" "${options[@]}" 2>/dev/null
}

_krg_labs() {
	_krg_ask lab ls | awk 'NR > 1 { print $1 }'
}

_krg_nodes() {
	_krg_ask node ls | awk '$1 ~ /^[0-9]+$/ { print $1 }'
}

_krg_pids() {
	_krg_ask ps | awk 'NR > 1 { print $1 }'
}

_krg_signals() {
	local s
	for s in $(compgen -A signal SIG); do
		echo "${s#SIG}"
	done
}

# the words that fit, for the word that is typed
_krg_words() {
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_krg_files() { # -f files, -d directories
	mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}

# "+CAP,-CAP,CAP": the last one of the list
_krg_capabilities() { # WITHOUT: also names without a sign?
	local done=${cur%"${cur##*,}"} last=${cur##*,} sign="" c words=()
	case $last in
	[+-]*) sign=${last:0:1} ;;
	esac
	for c in $_krg_caps; do
		if [ -n "$sign" ]; then
			words+=("$done$sign$c")
		else
			words+=("$done+$c" "$done-$c" ${1:+"$done$c"})
		fi
	done
	_krg_words "${words[*]}"
}

# a command of the world: from here on it is its own completion
_krg_command() {
	local i=$1
	if declare -F _command_offset >/dev/null; then
		_command_offset "$i"
	elif [ "$i" -eq "$COMP_CWORD" ]; then
		_krg_files -c
	else
		_krg_files -f
	fi
}

# run and sh: options, then a command
_krg_run() {
	local i
	case $prev in
	-n)
		_krg_words "$(_krg_nodes)"
		return
		;;
	-d)
		_krg_files -d
		return
		;;
	--caps)
		_krg_capabilities all
		return
		;;
	esac
	for ((i = at + 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-n | -d | --caps | --socket | --lab | --node) i=$((i + 1)) ;;
		--)
			_krg_command $((i + 1))
			return
			;;
		-*) ;;
		*)
			_krg_command "$i"
			return
			;;
		esac
	done
	if [[ $cur == -* ]]; then
		_krg_words "-n -t -d --caps $_krg_common"
	elif [ "$cmd" = run ]; then
		_krg_command "$COMP_CWORD"
	fi
}

_krg_lab() {
	local i first=0
	if [ "$COMP_CWORD" -eq $((at + 1)) ]; then
		_krg_words "up down ls exec stop start --help"
		return
	fi
	case $prev in
	--policy)
		_krg_words "load elsewhere off"
		return
		;;
	--krgd)
		_krg_files -f
		return
		;;
	--cpus | --timeout | -n | --nodes) return ;;
	esac
	# the node, and what stands behind it
	for ((i = at + 2; i < COMP_CWORD && first == 0; i++)); do
		case ${COMP_WORDS[i]} in
		--name | --lab | --socket | --node | --timeout | --krgd | --policy) i=$((i + 1)) ;;
		-*) ;;
		*) first=$i ;;
		esac
	done
	case ${COMP_WORDS[at + 1]} in
	up) _krg_words "-n --nodes --cpus --name --timeout --krgd --policy $_krg_common" ;;
	down) _krg_words "-f --force --name $_krg_common" ;;
	exec)
		if [ $first -eq 0 ]; then
			_krg_words "$(_krg_nodes) --name $_krg_common"
		else
			[ "${COMP_WORDS[first + 1]}" = -- ] && [ $((first + 1)) -lt "$COMP_CWORD" ] && first=$((first + 1))
			_krg_command $((first + 1))
		fi
		;;
	stop) _krg_words "$(_krg_nodes) --kill --crash --name $_krg_common" ;;
	start) _krg_words "$(_krg_nodes) --name --timeout --krgd --policy $_krg_common" ;;
	*) _krg_words "$_krg_common" ;;
	esac
}

_krg() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} at=1 cmd
	COMPREPLY=()

	# options before the command
	while [ $at -lt "$COMP_CWORD" ]; do
		case ${COMP_WORDS[at]} in
		--lab | --node | --socket) at=$((at + 2)) ;;
		--*=*) at=$((at + 1)) ;;
		*) break ;;
		esac
	done
	cmd=${COMP_WORDS[at]}
	case $prev in
	--lab | --name)
		_krg_words "$(_krg_labs)"
		return
		;;
	--node)
		_krg_words "$(_krg_nodes)"
		return
		;;
	--socket)
		_krg_files -f
		return
		;;
	esac
	if [ "$COMP_CWORD" -le $at ]; then
		_krg_words "$_krg_commands --lab --node --socket --help"
		return
	fi
	case $cmd in
	lab) _krg_lab ;;
	node)
		if [ "$COMP_CWORD" -eq $((at + 1)) ]; then
			_krg_words "ls add del $(_krg_nodes) --help"
		else
			_krg_words "$(_krg_nodes) $_krg_common"
		fi
		;;
	run | sh) _krg_run ;;
	ps) _krg_words "--tree $_krg_common $(_krg_pids)" ;;
	kill)
		if [ "$prev" = -s ]; then
			_krg_words "$(_krg_signals)"
		else
			_krg_words "-s $_krg_common $(_krg_pids)"
		fi
		;;
	migrate)
		if [[ $prev =~ ^[0-9]+$ ]]; then
			_krg_words "$(_krg_nodes)"
		else
			_krg_words "--sync --stop-copy $_krg_common $(_krg_pids)"
		fi
		;;
	caps)
		if [ "$prev" = -p ]; then
			_krg_words "$(_krg_pids)"
		elif [[ $cur == +* || $cur == -[A-Z]* ]]; then
			_krg_capabilities
		else
			_krg_words "-p $_krg_common"
		fi
		;;
	help) _krg_words "$_krg_commands" ;;
	trace) _krg_words "-n $_krg_common" ;;
	*) _krg_words "$_krg_common" ;;
	esac
}

_krgadm() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	case $prev in
	--lab) _krg_words "$(_krg_labs)" ;;
	-n | --node) _krg_words "$(_krg_nodes)" ;;
	--socket) _krg_files -f ;;
	*)
		case $COMP_CWORD,${COMP_WORDS[1]},${COMP_WORDS[2]} in
		1,*) _krg_words "cluster nodes --help" ;;
		2,cluster,*) _krg_words "status poweroff reboot" ;;
		2,nodes,*) _krg_words "status add del" ;;
		*,nodes,status) _krg_words "-n $_krg_common" ;;
		*,nodes,*) _krg_words "-n -c -t -a $_krg_common" ;;
		*) _krg_words "$_krg_common" ;;
		esac
		;;
	esac
}

_krgcapset() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	case $prev in
	-k | --pid) _krg_words "$(_krg_pids)" ;;
	-[epdi] | --effective | --permitted | --inheritable-*) _krg_capabilities all ;;
	--lab) _krg_words "$(_krg_labs)" ;;
	--node) _krg_words "$(_krg_nodes)" ;;
	--socket) _krg_files -f ;;
	*)
		_krg_words "-k --pid -s --show -f --force -e --effective -p --permitted
			-d --inheritable-effective -i --inheritable-permitted -v --version $_krg_common"
		;;
	esac
}

complete -F _krg krg
complete -F _krgadm krgadm
complete -F _krgcapset krgcapset
