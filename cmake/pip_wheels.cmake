# Makes the ros-* wheels of PyPI usable for building. With a sourced ROS 2 nothing changes.
# 1. They export include folders of the machine they were built on (/opt/python/cp311-cp311/...), and CMake refuses a
#    target with a folder that does not exist: such folders are dropped.
# 2. Their prefix is a virtual environment that may lie in this source tree (.venv), and CMake refuses to export a target
#    that names a folder of the source tree: such folders count for the build only.
function(_ecovla_mend_include_dirs)
  get_property(_imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  get_property(_own DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(_target IN LISTS _imported _own)
    get_target_property(_dirs ${_target} INTERFACE_INCLUDE_DIRECTORIES)
    if(_dirs)
      set(_kept "")
      foreach(_dir IN LISTS _dirs)
        string(FIND "${_dir}" "${CMAKE_SOURCE_DIR}/" _within)
        if(_target IN_LIST _own AND _within EQUAL 0)
          list(APPEND _kept "$<BUILD_INTERFACE:${_dir}>")
        elseif(EXISTS "${_dir}" OR _dir MATCHES "^\\$<" OR _target IN_LIST _own)
          list(APPEND _kept "${_dir}")
        endif()
      endforeach()
      set_target_properties(${_target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_kept}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL _ecovla_mend_include_dirs)
