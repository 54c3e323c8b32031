# One target that every library links: language level, warnings, sanitizers.
add_library(plp_options INTERFACE)
target_compile_definitions(plp_options INTERFACE _POSIX_C_SOURCE=200809L $<$<COMPILE_LANGUAGE:C>:_DEFAULT_SOURCE>)
target_include_directories(plp_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src ${PROJECT_BINARY_DIR}/generated)
set(plp_c_warnings -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wformat=2 -Wundef)
if(PLP_WERROR)
  list(APPEND plp_c_warnings -Werror)
endif()
foreach(flag IN LISTS plp_c_warnings)
  target_compile_options(plp_options INTERFACE $<$<COMPILE_LANGUAGE:C>:${flag}>)
endforeach()
target_compile_options(plp_options INTERFACE $<$<COMPILE_LANGUAGE:C>:-fno-math-errno> $<$<COMPILE_LANGUAGE:C>:-fno-trapping-math>)
target_compile_options(plp_options INTERFACE $<$<COMPILE_LANGUAGE:C>:-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>) # messages name src/...
if(PLP_FAULTS)
  target_compile_definitions(plp_options INTERFACE PLP_FAULTS)
endif()
if(PLP_SANITIZE)
  target_compile_options(plp_options INTERFACE $<$<COMPILE_LANGUAGE:C>:-fsanitize=${PLP_SANITIZE}> $<$<COMPILE_LANGUAGE:C>:-fno-sanitize-recover=all>
                                               $<$<COMPILE_LANGUAGE:C>:-fno-omit-frame-pointer>)
  target_link_options(plp_options INTERFACE -fsanitize=${PLP_SANITIZE})
endif()
if(PLP_SANITIZE OR PLP_FUZZ) # where memory is not what the program asks for
  target_compile_definitions(plp_options INTERFACE PLP_SANITIZED)
endif()
if(PLP_FUZZ) # libFuzzer's coverage in everything that its targets call; the runtime itself is linked by tests/fuzz
  target_compile_definitions(plp_options INTERFACE PLP_FUZZ)
  target_compile_options(plp_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(plp_options INTERFACE -fsanitize=address,undefined)
endif()
