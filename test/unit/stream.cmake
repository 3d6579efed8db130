krg_test(NAME unit_stream_standin PART stream SOURCES stream_standin.c LABELS unit LIBS util)
krg_test(NAME unit_stream_pipe PART stream SOURCES stream_pipe.c LABELS unit)
krg_test(NAME unit_stream_killed PART stream SOURCES stream_killed.c LABELS unit)
