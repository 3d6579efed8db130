krg_bench(NAME bench_comm PART comm SOURCES ${CMAKE_SOURCE_DIR}/bench/bench_comm.c)
