# What the build files of the parts, tools and tests are written with.
#
# Includes are quoted only: "comm.h" is looked for in the folders of the part and of its DEPS, so
# an include from above does not build.

include(GNUInstallDirs)
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
# the libraries are compiled side by side: they need each other only when programs are linked
set(CMAKE_OPTIMIZE_DEPENDENCIES ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
	set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")

option(KRG_WERROR "warnings are errors" ON)
option(KRG_CHECKS "lock order checker and fault points (test builds)" ON)
option(KRG_FUZZ "the parts and test/fuzz only, for clang's libFuzzer" OFF)
set(KRG_SANITIZE "" CACHE STRING "address,undefined or thread")

add_compile_definitions(_GNU_SOURCE KRG_VERSION="${PROJECT_VERSION}")
add_compile_options(-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
	-Wwrite-strings -Wvla -Wimplicit-fallthrough -fno-strict-aliasing)
if(KRG_WERROR)
	add_compile_options(-Werror)
endif()
if(KRG_CHECKS)
	add_compile_definitions(KRG_CHECKS=1)
endif()
if(KRG_FUZZ)
	if(NOT CMAKE_C_COMPILER_ID STREQUAL Clang)
		message(FATAL_ERROR "KRG_FUZZ needs clang: -DCMAKE_C_COMPILER=clang")
	endif()
	set(KRG_SANITIZE address,undefined)
	add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(KRG_SANITIZE)
	add_compile_options(-fsanitize=${KRG_SANITIZE} -fno-sanitize-recover=all
		-fno-omit-frame-pointer)
	add_link_options(-fsanitize=${KRG_SANITIZE})
	if(KRG_SANITIZE MATCHES thread AND CMAKE_C_COMPILER_ID STREQUAL GNU)
		add_compile_options(-Wno-tsan)
	endif()
endif()
# A small program that cannot carry a sanitizer's runtime (static, or pid 1 of a world) links
# krg_base_plain instead of krg_base, and nothing else of ours.
set(KRG_NO_SANITIZE)
if(KRG_SANITIZE OR KRG_FUZZ)
	set(KRG_NO_SANITIZE -fno-sanitize=all)
endif()

# krg_part(NAME comm DEPS kernetdev SOURCES ... LIBS ...)
#
# One library per part of the stack.  DEPS are the parts right below that it may see (theirs are
# seen through them); a part that is not built yet, or stands above, is an error.
function(krg_part)
	cmake_parse_arguments(P "" "NAME" "DEPS;SOURCES;LIBS" ${ARGN})
	add_library(krg_${P_NAME} STATIC ${P_SOURCES})
	target_compile_options(krg_${P_NAME} PUBLIC "SHELL:-iquote ${CMAKE_CURRENT_SOURCE_DIR}")
	foreach(dep ${P_DEPS})
		if(NOT TARGET krg_${dep})
			message(FATAL_ERROR "part ${P_NAME} names ${dep}, which is not below it")
		endif()
		target_link_libraries(krg_${P_NAME} PUBLIC krg_${dep})
	endforeach()
	target_link_libraries(krg_${P_NAME} PUBLIC ${P_LIBS})
endfunction()

# What holds for every test: exit code 77 is "skipped, and here is why"; live tests run one at a
# time (they share the machine's network and cgroups); sanitizers stop at their first finding.
function(krg_test_properties name part timeout)
	set(labels ${ARGN})
	if(part)
		list(APPEND labels part-${part})
	endif()
	if(NOT timeout)
		set(timeout 60)
	endif()
	if(KRG_SANITIZE)
		math(EXPR timeout "${timeout} * 4")
	endif()
	set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout}
		SKIP_RETURN_CODE 77 ENVIRONMENT
		"KRG_BIN=${CMAKE_BINARY_DIR}/bin;ASAN_OPTIONS=abort_on_error=0:detect_leaks=1;UBSAN_OPTIONS=print_stacktrace=1;TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1")
	if("live" IN_LIST labels)
		set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
	endif()
endfunction()

# Where a test's .cmake file means its sources to be: beside itself, or from the top.
function(krg_resolve out)
	set(found)
	foreach(name ${ARGN})
		foreach(dir ${CMAKE_CURRENT_LIST_DIR} ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_SOURCE_DIR})
			if(NOT IS_ABSOLUTE ${name} AND EXISTS ${dir}/${name})
				set(name ${dir}/${name})
			endif()
		endforeach()
		list(APPEND found ${name})
	endforeach()
	set(${out} ${found} PARENT_SCOPE)
endfunction()

# krg_test(NAME unit_comm_record PART comm SOURCES ... LABELS unit [TIMEOUT 60] [LIBS ...] [ARGS ...])
#
# A test program that speaks TAP on test/tap.h and sees PART and what is below.  Nothing happens
# when PART is not in the build.  LABELS: unit, sim or live, and "short" on a live test that the
# sanitizer runs take along.
function(krg_test)
	cmake_parse_arguments(T "" "NAME;PART;TIMEOUT" "SOURCES;LABELS;LIBS;ARGS" ${ARGN})
	if(NOT TARGET krg_${T_PART})
		return()
	endif()
	krg_resolve(sources ${T_SOURCES})
	add_executable(${T_NAME} ${sources})
	target_compile_options(${T_NAME} PRIVATE "SHELL:-iquote ${CMAKE_SOURCE_DIR}/test")
	target_link_libraries(${T_NAME} PRIVATE krg_${T_PART} ${T_LIBS})
	add_test(NAME ${T_NAME} COMMAND ${T_NAME} ${T_ARGS})
	krg_test_properties(${T_NAME} "${T_PART}" "${T_TIMEOUT}" ${T_LABELS})
endfunction()

# krg_script_test(NAME live_run_make PART krgd SCRIPT test/live/run_make.sh LABELS live [TIMEOUT 60] [ARGS ...])
#
# The same for a script (bash); it finds the programs in $KRG_BIN.
function(krg_script_test)
	cmake_parse_arguments(T "" "NAME;PART;TIMEOUT;SCRIPT" "LABELS;ARGS" ${ARGN})
	if(T_PART AND NOT TARGET krg_${T_PART})
		return()
	endif()
	krg_resolve(script ${T_SCRIPT})
	add_test(NAME ${T_NAME} COMMAND bash ${script} ${T_ARGS})
	krg_test_properties(${T_NAME} "${T_PART}" "${T_TIMEOUT}" ${T_LABELS})
endfunction()

# krg_bench(NAME bench_comm PART comm SOURCES ...)
#
# A program that prints figure lines (bench/run.sh says which); bench/run.sh runs them.
function(krg_bench)
	cmake_parse_arguments(B "" "NAME;PART" "SOURCES;LIBS" ${ARGN})
	if(NOT TARGET krg_${B_PART})
		return()
	endif()
	krg_resolve(sources ${B_SOURCES})
	add_executable(${B_NAME} ${sources})
	target_compile_options(${B_NAME} PRIVATE "SHELL:-iquote ${CMAKE_SOURCE_DIR}/bench")
	target_link_libraries(${B_NAME} PRIVATE krg_${B_PART} ${B_LIBS})
endfunction()
