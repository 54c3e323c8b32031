typedef int plp_cli_empty;
