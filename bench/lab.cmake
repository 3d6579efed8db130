# The benches of the whole: they bring up labs and need root.
function(lab_bench name source)
	krg_bench(NAME ${name} PART base SOURCES ${CMAKE_SOURCE_DIR}/bench/${source}
		${CMAKE_SOURCE_DIR}/bench/bench_lab_util.c)
	target_compile_definitions(${name} PRIVATE BENCH_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endfunction()
lab_bench(bench_gate bench_gate.c)
lab_bench(bench_exec bench_exec.c)
lab_bench(bench_lab bench_lab.c)
lab_bench(bench_pipe bench_lab_pipe.c)
lab_bench(bench_compile bench_lab_compile.c)
lab_bench(bench_migrate bench_lab_migrate.c)
