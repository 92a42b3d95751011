// RUN: qvit-opt %s --verify-integer-only=report-only 2> %t.txt | filecheck %s --check-prefix=IR
// RUN: filecheck %s --input-file %t.txt
// RUN: not qvit-opt %s --verify-integer-only -o %t.mlir 2> %t.err
// RUN: filecheck %s --input-file %t.err --check-prefix=ERROR

// Every operation of the tagged functions that keeps a float is named, with the place of the float. The module stays.

// ERROR: qvit-opt: error: verify-integer-only: 7 operations keep a float:
// ERROR-NEXT: real: qvit.requantize (attribute form)

// CHECK: 7 operations keep a float:

// IR-LABEL: @clean
func.func @clean(%q: tensor<2x3xi8>, %w: tensor<4x3xi8>) -> tensor<2x4xi8> attributes {qvit.integer_only} {
  %c = qvit.constant dense<[1, 2, 3, 4]> : tensor<4xi32> {qvit.src = ["bias"]}
  %y = qvit.linear %q, %w, %c input_zero_point <3> {qvit.src = ["fc"]} : (tensor<2x3xi8>, tensor<4x3xi8>, tensor<4xi32>) -> tensor<2x4xi32>
  %z = qvit.requantize %y by #qvit.dyadic<[3, 5, 7, 9], 9> axis 1 {qvit.src = ["dyadic"]} : tensor<2x4xi32> -> tensor<2x4xi8>
  %v = qvit.requantize %z by #qvit.pot<2> {qvit.src = ["pot"]} : tensor<2x4xi8> -> tensor<2x4xi8>
  func.return %v : tensor<2x4xi8>
}

// All types are integers, and yet the factor is a real number, or lies in a weight file as floats.
func.func @hidden(%q: tensor<2x2xi8>) -> tensor<2x2xi8> attributes {qvit.integer_only} {
  %x = qvit.requantize %q by #qvit.real<0.5> {qvit.src = ["real"]} : tensor<2x2xi8> -> tensor<2x2xi8>
  %y = qvit.requantize %x by #qvit.real<[0.5, 0.25] / 3.0> axis 0 {qvit.src = ["real_vector"]} : tensor<2x2xi8> -> tensor<2x2xi8>
  %z = qvit.requantize %y by #qvit.real<@"scales" : tensor<2xf32>> axis 0 {qvit.src = ["real_stored"]} : tensor<2x2xi8> -> tensor<2x2xi8>
  %u = qvit.reshape %z {qvit.src = ["note"], note = {deep = [1.0 : f32]}} : tensor<2x2xi8> -> tensor<2x2xi8>
  func.return %u : tensor<2x2xi8>
}
// CHECK-NEXT: real: qvit.requantize (attribute form)
// CHECK-NEXT: real_vector: qvit.requantize (attribute form)
// CHECK-NEXT: real_stored: qvit.requantize (attribute form)
// CHECK-NEXT: note: qvit.reshape (attribute note)

func.func @typed(%q: tensor<2xi8>) -> tensor<2xi8> attributes {qvit.integer_only} {
  %x = qvit.dequantize %q <0.5> {qvit.src = ["dq"]} : tensor<2xi8> -> tensor<2xf32>
  %y = qvit.quantize %x <0.25> {qvit.src = ["q"]} : tensor<2xf32> -> tensor<2xi8>
  %c = qvit.constant dense<1.0> : tensor<2xf64> {qvit.src = ["unused"]}
  func.return %y : tensor<2xi8>
}
// CHECK-NEXT: dq: qvit.dequantize (result 0 tensor<2xf32>, attribute params)
// CHECK-NEXT: q: qvit.quantize (operand 0 tensor<2xf32>, attribute params)
// CHECK-NEXT: unused: qvit.constant (result 0 tensor<2xf64>, attribute value)
// CHECK-NOT:  {{.}}

// Another function is not tagged: its floats are its own.
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %y = qvit.relu %x {qvit.src = ["relu"]} : tensor<2xf32>
  func.return %y : tensor<2xf32>
}
// IR: @main
// IR: qvit.relu
