typedef int plp_io_empty;
