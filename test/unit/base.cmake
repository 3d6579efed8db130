foreach(t buf rec err io fault lock trace rng log)
	krg_test(NAME unit_base_${t} PART base SOURCES base_${t}.c LABELS unit)
endforeach()
