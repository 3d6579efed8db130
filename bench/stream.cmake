krg_bench(NAME bench_stream PART stream SOURCES stream.c)
