krg_test(NAME unit_service PART service SOURCES service_test.c
	LABELS unit)
