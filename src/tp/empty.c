typedef int plp_tp_empty;
