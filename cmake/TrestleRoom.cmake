# trestle_room(NAME [TORCH] SOURCES ... LINK ...): the static library trestle_NAME, alias trestle::NAME.
# TORCH rooms share the one precompiled header that trestle_base_torch builds.
function(trestle_room name)
  cmake_parse_arguments(ROOM "TORCH" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(trestle_${name} STATIC ${ROOM_SOURCES})
  add_library(trestle::${name} ALIAS trestle_${name})
  target_include_directories(trestle_${name} PUBLIC "${PROJECT_SOURCE_DIR}")
  target_link_libraries(trestle_${name} PUBLIC ${ROOM_LINK} PRIVATE ${ROOM_PRIVATE_LINK})
  if(ROOM_TORCH)
    target_link_libraries(trestle_${name} PUBLIC trestle_torch)
    if(name STREQUAL "base_torch")
      target_precompile_headers(trestle_${name} PRIVATE
        "$<$<COMPILE_LANGUAGE:CXX>:${PROJECT_SOURCE_DIR}/base/torch/pch.h>")
    else()
      target_precompile_headers(trestle_${name} REUSE_FROM trestle_base_torch)
    endif()
  endif()
endfunction()

# Links a whole test or program target like a torch room (same precompiled header).
function(trestle_use_torch target)
  target_link_libraries(${target} PRIVATE trestle_torch)
  # Programs would get -fPIE, and the header was compiled with -fPIC.
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC)
  target_precompile_headers(${target} REUSE_FROM trestle_base_torch)
endfunction()
