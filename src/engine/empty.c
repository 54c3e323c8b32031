typedef int plp_engine_empty;
