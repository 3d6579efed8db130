krg_test(NAME unit_hotplug PART hotplug SOURCES hotplug_test.c LABELS unit TIMEOUT 90)
