# What the library is built with: HGFAST_JSON_INCLUDE, HGFAST_HAS_OPENVINO, HGFAST_HAS_TENSORRT and what belongs to that,
# HGFAST_LIBRARIES, JPEG_FOUND.
set(HGFAST_LIBRARIES "")

# Where a package of HGFAST_PYTHON lies, in `out`; nothing where it is not installed.
function(hgfast_python_package name out)
  set(found "")
  if(HGFAST_PYTHON)
    execute_process(
      COMMAND ${HGFAST_PYTHON} -c
              "import importlib.util as u; s = u.find_spec('${name}'); print(*s.submodule_search_locations if s else '', end='')"
      OUTPUT_VARIABLE found RESULT_VARIABLE failed)
    if(failed)
      message(FATAL_ERROR "HGFAST_PYTHON=${HGFAST_PYTHON} does not run")
    endif()
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

hgfast_python_package(nlohmann_json json_package)
find_path(HGFAST_JSON_INCLUDE nlohmann/json.hpp HINTS ${json_package}/include DOC "Where nlohmann/json.hpp lies")
if(NOT HGFAST_JSON_INCLUDE)
  message(FATAL_ERROR "nlohmann/json.hpp was not found: apt install nlohmann-json3-dev, or pip install nlohmann-json and give "
                      "-DHGFAST_PYTHON=$(which python), or -DHGFAST_JSON_INCLUDE=FOLDER")
endif()

set(HGFAST_HAS_OPENVINO OFF)
if(NOT HGFAST_OPENVINO STREQUAL "OFF")
  hgfast_python_package(openvino openvino_package)
  find_package(OpenVINO COMPONENTS Runtime QUIET HINTS ${openvino_package}/cmake)
  set(HGFAST_HAS_OPENVINO ${OpenVINO_FOUND})
  if(OpenVINO_FOUND)
    list(APPEND HGFAST_LIBRARIES openvino::runtime)
  elseif(HGFAST_OPENVINO STREQUAL "ON")
    message(FATAL_ERROR "OpenVINO was not found: pip install openvino and give -DHGFAST_PYTHON=$(which python)")
  endif()
endif()

# libnvinfer of TensorRT and libtensorrt_rtx of TensorRT-RTX have the same functions: a build has one of them. Where a folder
# has both, it is the one that the headers are of.
set(HGFAST_HAS_TENSORRT OFF)
find_path(HGFAST_TENSORRT_INCLUDE NvInfer.h HINTS ${HGFAST_TENSORRT_ROOT} PATH_SUFFIXES include DOC "Where NvInfer.h lies")
set(tensorrt_names nvinfer libnvinfer.so.11 libnvinfer.so.10)
set(rtx_names tensorrt_rtx libtensorrt_rtx.so.1)
set(rtx_headers unknown)
if(EXISTS ${HGFAST_TENSORRT_INCLUDE}/NvInferVersion.h)
  file(STRINGS ${HGFAST_TENSORRT_INCLUDE}/NvInferVersion.h rtx_headers REGEX "define +TRT_MAJOR_RTX")
endif()
if(rtx_headers)
  list(PREPEND tensorrt_names ${rtx_names})
else()
  list(APPEND tensorrt_names ${rtx_names})
endif()
find_library(HGFAST_TENSORRT_LIBRARY NAMES ${tensorrt_names} NAMES_PER_DIR HINTS ${HGFAST_TENSORRT_ROOT}
             PATH_SUFFIXES lib lib64 DOC "libnvinfer or libtensorrt_rtx")
if(HGFAST_TENSORRT_INCLUDE AND HGFAST_TENSORRT_LIBRARY)
  find_path(HGFAST_CUDA_INCLUDE cuda_runtime_api.h HINTS ${HGFAST_CUDA_ROOT} /usr/local/cuda PATH_SUFFIXES include)
  find_library(HGFAST_CUDART NAMES cudart libcudart.so.13 libcudart.so.12 HINTS ${HGFAST_CUDA_ROOT} /usr/local/cuda
               PATH_SUFFIXES lib lib64)
  if(NOT HGFAST_CUDA_INCLUDE OR NOT HGFAST_CUDART)
    message(FATAL_ERROR "TensorRT was found at ${HGFAST_TENSORRT_LIBRARY}, but not the CUDA runtime: give "
                        "-DHGFAST_CUDA_ROOT=FOLDER; pip's nvidia-cuda-runtime and nvidia-cuda-crt have one, nvidia/cu13")
  endif()
  set(HGFAST_HAS_TENSORRT ON)
  get_filename_component(tensorrt_library ${HGFAST_TENSORRT_LIBRARY} NAME)
  if(tensorrt_library MATCHES "tensorrt_rtx")
    set(HGFAST_TENSORRT_DEFINITION HGFAST_WITH_TENSORRT_RTX)
    if(NOT rtx_headers)
      message(WARNING "${HGFAST_TENSORRT_LIBRARY} is of TensorRT-RTX, ${HGFAST_TENSORRT_INCLUDE}/NvInfer.h of TensorRT: this "
                      "builds, and then refuses to run engines")
    endif()
  else()
    set(HGFAST_TENSORRT_DEFINITION HGFAST_WITH_TENSORRT)
  endif()
  list(APPEND HGFAST_LIBRARIES ${HGFAST_TENSORRT_LIBRARY} ${HGFAST_CUDART})
elseif(HGFAST_TENSORRT_ROOT)
  message(FATAL_ERROR "HGFAST_TENSORRT_ROOT=${HGFAST_TENSORRT_ROOT} has no include/NvInfer.h, or no lib/ with libnvinfer or "
                      "libtensorrt_rtx")
endif()

if(NOT HGFAST_HAS_OPENVINO AND NOT HGFAST_HAS_TENSORRT)
  message(FATAL_ERROR "neither OpenVINO nor TensorRT was found, one of which runs the network: pip install openvino and give "
                      "-DHGFAST_PYTHON=$(which python), or give -DHGFAST_TENSORRT_ROOT=FOLDER")
endif()

set(JPEG_FOUND OFF)
if(HGFAST_CLI)
  find_package(JPEG QUIET)
  if(NOT JPEG_FOUND)
    message(WARNING "libjpeg was not found: hgfast_cli will take raw pixels only. apt install libjpeg-dev")
  endif()
endif()

set(with "")
foreach(part OPENVINO TENSORRT)
  if(HGFAST_HAS_${part})
    list(APPEND with ${part})
  endif()
endforeach()
if(JPEG_FOUND)
  list(APPEND with JPEG)
endif()
list(JOIN with ", " with)
message(STATUS "hgfast is built with ${with}")
