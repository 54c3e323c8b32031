typedef int plp_layers_empty;
