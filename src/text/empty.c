typedef int plp_text_empty;
