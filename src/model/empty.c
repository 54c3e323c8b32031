typedef int plp_model_empty;
