// RUN: qvit-opt %s --split-input-file --integerize --weights-out %t.safetensors 2> %t.txt | filecheck %s

// What stands between a dequantize and a quantize becomes one integer operation, real factors first.

// CHECK-LABEL: @add
// CHECK:       qvit.add_requant %{{.*}} by #qvit.real<0.1 / 0.5>, %{{.*}} by #qvit.real<0.3 / 0.5> lhs_zero_point <3> zero_point <1>
// CHECK-NEXT:  return
func.func @add(%q: tensor<2x3xi8>, %r: tensor<2x3xi8>) -> tensor<2x3xi16> {
  %a = qvit.dequantize %q <0.1, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %b = qvit.dequantize %r <0.3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.add %a, %b : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %z = qvit.quantize %y <0.5, zero_point = 1> : tensor<2x3xf32> -> tensor<2x3xi16>
  func.return %z : tensor<2x3xi16>
}

// -----

// CHECK-LABEL: @add_float
// CHECK:       qvit.add %
// CHECK-NEXT:  qvit.quantize
func.func @add_float(%q: tensor<2x3xi8>, %b: tensor<2x3xf32>) -> tensor<2x3xi16> {
  %a = qvit.dequantize %q <0.1, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.add %a, %b : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %z = qvit.quantize %y <0.5, zero_point = 1> : tensor<2x3xf32> -> tensor<2x3xi16>
  func.return %z : tensor<2x3xi16>
}

// -----

// CHECK-LABEL: @mul
// CHECK:       %[[Z:.*]] = qvit.constant dense<3> : tensor<i8>
// CHECK-NEXT:  %[[C:.*]] = qvit.sub %{{.*}}, %[[Z]] : (tensor<2x3xi8>, tensor<i8>) -> tensor<2x3xi32>
// CHECK-NEXT:  %[[P:.*]] = qvit.mul %[[C]], %{{.*}} -> tensor<2x3xi32>
// CHECK-NEXT:  qvit.requantize %[[P]] by #qvit.real<0.1 * 0.3 / 0.5>
func.func @mul(%q: tensor<2x3xi8>, %r: tensor<2x3xi8>) -> tensor<2x3xi8> {
  %a = qvit.dequantize %q <0.1, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %b = qvit.dequantize %r <0.3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.mul %a, %b : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %z = qvit.quantize %y <0.5> : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %z : tensor<2x3xi8>
}

// -----

// CHECK-LABEL: @mean
// CHECK:       %[[S:.*]] = qvit.reduce_sum %{{.*}} {axes = array<i64: 1>, keepdims = true}
// CHECK-NEXT:  qvit.requantize %[[S]] by #qvit.real<0.1 / 3.0 / 0.5> input_zero_point <9>
func.func @mean(%q: tensor<2x3xi8>) -> tensor<2x1xi8> {
  %a = qvit.dequantize %q <0.1, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.reduce_mean %a {axes = array<i64: 1>, keepdims = true} : tensor<2x3xf32> -> tensor<2x1xf32>
  %z = qvit.quantize %y <0.5> : tensor<2x1xf32> -> tensor<2x1xi8>
  func.return %z : tensor<2x1xi8>
}

// -----

// CHECK-LABEL: @clips
// CHECK:       %[[R:.*]] = qvit.requantize %{{.*}} by #qvit.real<0.1 / 0.5>
// CHECK-NEXT:  qvit.clip %[[R]] {low = 1 : i64}
// CHECK-NEXT:  %[[S:.*]] = qvit.requantize %{{.*}} by #qvit.real<0.1 / 0.5>
// CHECK-NEXT:  qvit.clip %[[S]] {low = 0 : i64, high = 12 : i64}
func.func @clips(%q: tensor<2x3xi8>) -> (tensor<2x3xi8>, tensor<2x3xi8>) {
  %a = qvit.dequantize %q <0.1, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.relu %a : tensor<2x3xf32>
  %z = qvit.quantize %y <0.5, zero_point = 1> : tensor<2x3xf32> -> tensor<2x3xi8>
  %u = qvit.clip %a {low = 0.0 : f64, high = 6.0 : f64} : tensor<2x3xf32>
  %v = qvit.quantize %u <0.5> : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %z, %v : tensor<2x3xi8>, tensor<2x3xi8>
}

// -----

// CHECK-LABEL: @argmax
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:  qvit.argmax %[[Q]] {axis = 1 : i64, keepdims = false}
func.func @argmax(%q: tensor<2x3xi8>) -> tensor<2xi64> {
  %a = qvit.dequantize %q <0.1, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.argmax %a {axis = 1 : i64, keepdims = false} : tensor<2x3xf32> -> tensor<2xi64>
  func.return %y : tensor<2xi64>
}

// -----

// Columns of different scales are in another order than their codes.
// CHECK-LABEL: @argmax_of_columns
// CHECK:       qvit.dequantize
func.func @argmax_of_columns(%q: tensor<2x3xi8>) -> tensor<2xi64> {
  %a = qvit.dequantize %q <[0.1, 0.2, 0.3], axis = 1> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.argmax %a {axis = 1 : i64, keepdims = false} : tensor<2x3xf32> -> tensor<2xi64>
  func.return %y : tensor<2xi64>
}

// -----

// CHECK-LABEL: @functions
// CHECK:       qvit.int_function %{{.*}} tables(%{{.*}} : tensor<256xi8>) by #qvit.table<lowest = -128>
// CHECK:       qvit.int_layer_norm %{{.*}} by #qvit.ln<
// CHECK:       qvit.tanh
func.func @functions(%q: tensor<2x3xi8>) -> (tensor<2x3xi8>, tensor<2x3xi8>, tensor<2x3xf32>) {
  %a = qvit.dequantize %q <0.1, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.gelu %a : tensor<2x3xf32>
  %z = qvit.quantize %y <0.5> : tensor<2x3xf32> -> tensor<2x3xi8>
  %g = qvit.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
  %n = qvit.layer_norm %a, %g axis 1 epsilon 1.0e-6 : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %m = qvit.quantize %n <0.5> : tensor<2x3xf32> -> tensor<2x3xi8>
  %t = qvit.tanh %a : tensor<2x3xf32>
  func.return %z, %m, %t : tensor<2x3xi8>, tensor<2x3xi8>, tensor<2x3xf32>
}

// -----

// The division comes behind the product with the values; the mask goes along.
// CHECK-LABEL: @attention
// CHECK:       %[[W:.*]], %[[S:.*]] = qvit.int_softmax %{{.*}} mask(%{{.*}} : tensor<1x3xui1>) by #qvit.sm8_late
// CHECK-NEXT:  %[[P:.*]] = qvit.matmul %[[W]], %{{.*}} rhs_zero_point <2>
// CHECK-NEXT:  qvit.requantize %[[P]] {{.*}}divided_by %[[S]]
func.func @attention(%q: tensor<4x3xi8>, %r: tensor<3x2xi8>, %m: tensor<1x3xui1>) -> tensor<4x2xi8> {
  %a = qvit.dequantize %q <0.0625> : tensor<4x3xi8> -> tensor<4x3xf32>
  %p = qvit.softmax %a mask(%m : tensor<1x3xui1>) axis 1 : tensor<4x3xf32>
  %v = qvit.dequantize %r <0.1, zero_point = 2> : tensor<3x2xi8> -> tensor<3x2xf32>
  %y = qvit.matmul %p, %v : (tensor<4x3xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  %z = qvit.quantize %y <0.1> : tensor<4x2xf32> -> tensor<4x2xi8>
  func.return %z : tensor<4x2xi8>
}

// -----

// The quantizer goes to what makes the number; the ends go into functions of their own.
// CHECK-LABEL: @quantize_inputs
// CHECK-SAME:    (%{{.*}}: tensor<2x3xf32> {qvit.name = "image"}) -> (tensor<2x3xi8> {qvit.name = "image"})
// CHECK-NEXT:  qvit.quantize %{{.*}} <0.1>
// CHECK:       @main
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8> {qvit.name = "image"}) -> (tensor<3x2xi8> {qvit.name = "out"})
// CHECK-SAME:    qvit.integer_only
// CHECK:       %[[R:.*]] = qvit.clip
// CHECK-NEXT:  %[[T:.*]] = qvit.transpose %[[R]] [1, 0]
// CHECK-NEXT:  return %[[T]]
// CHECK:       @dequantize_outputs
// CHECK-NEXT:  qvit.dequantize %{{.*}} <0.5>
func.func @main(%x: tensor<2x3xf32> {qvit.name = "image"}) -> (tensor<3x2xf32> {qvit.name = "out"}) {
  %q = qvit.quantize %x <0.1> : tensor<2x3xf32> -> tensor<2x3xi8>
  %a = qvit.dequantize %q <0.1> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.relu %a : tensor<2x3xf32>
  %t = qvit.transpose %y [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>
  %z = qvit.quantize %t <0.5> : tensor<3x2xf32> -> tensor<3x2xi8>
  %u = qvit.dequantize %z <0.5> : tensor<3x2xi8> -> tensor<3x2xf32>
  func.return %u : tensor<3x2xf32>
}
